import { Readable } from 'node:stream';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import t from 'tap';
import {
  type AdoptionRow,
  adoptionRow,
  exportHeader,
  exportPart,
  ingestBody,
} from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { scaled, seed } from '../helpers/scale.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { fileOf } from './csv-oracle.ts';

t.setTimeout(900_000);

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');
const ingested = '2026-03-01';
const shown = '2026-03-02';

const text = fc.oneof(
  fc.constantFrom(
    '',
    'Acme',
    'Acme, Inc.',
    'a "b" c',
    'line\nbreak',
    'line\r\nbreak',
    '\\.',
    '\\N',
    'ü💥',
    ' ',
    '=1+1',
    "'",
    'null',
  ),
  fc
    .string({ unit: 'grapheme', maxLength: 12 })
    .filter(found => !found.includes('\u0000') && found.isWellFormed()),
);
const instant = fc
  .date({
    min: new Date('0001-01-02T00:00:00Z'),
    max: new Date('9999-12-30T00:00:00Z'),
    noInvalidDate: true,
  })
  .map(date => date.toISOString());
const segments = fc.array(
  fc.tuple(
    text,
    text.map(id => id.replaceAll(',', '')),
  ),
  { maxLength: 3 },
);
const row = (index: number): fc.Arbitrary<AdoptionRow> =>
  fc
    .record({
      companyName: fc.option(text),
      featureName: text,
      firstSeen: instant,
      lastSeen: instant,
      firstUsed: fc.option(instant),
      lastUsed: fc.option(instant),
      starsState: fc.constantFrom(1 as const, 2 as const, 3 as const, 4 as const),
      frequency: fc.constantFrom(0 as const, 1 as const, 2 as const, 3 as const),
      satisfaction: fc.constantFrom(null, 1 as const, 5 as const),
      feedbackCount: fc.nat(),
      segments,
    })
    .map(({ segments, ...rest }) => ({
      ...adoptionRow(rest),
      companyId: `c${index % 3}`,
      featureId: `f${index}`,
      segmentNames: segments.map(([name]) => name),
      segmentIds: segments.map(([, id]) => id),
    }));
const rows = fc
  .integer({ min: 0, max: 5 })
  .chain(count => fc.tuple(...Array.from({ length: count }, (_, index) => row(index))));
/** A valid file in the form for ingest, or an exported file, which may be ingested too. */
const goodFile = fc
  .tuple(rows, fc.boolean())
  .map(([found, isExported]) =>
    Buffer.from(isExported ? exportHeader + exportPart(found, ingested) : ingestBody(found)),
  );

type Mutation = (file: Buffer) => Buffer;

const splice = (file: Buffer, at: number, remove: number, insert: Buffer) =>
  Buffer.concat([file.subarray(0, at), insert, file.subarray(at + remove)]);
/** A position anywhere, or beside a comma, quote or line break. */
const place = fc.tuple(fc.nat(), fc.boolean()).map(([number, isAtMark]) => (file: Buffer) => {
  if (!isAtMark) return number % (file.length + 1);
  const marks = [...file.keys()].filter(at => [0x22, 0x2c, 0x0a, 0x0d].includes(file[at] ?? 0));
  return (marks[number % Math.max(marks.length, 1)] ?? 0) + (number % 2);
});
const piece = fc.oneof(
  fc
    .constantFrom(
      '"',
      '""',
      ',',
      '\n',
      '\r\n',
      '\r',
      '\u0000',
      '\ufeff',
      '\\.',
      '\\N',
      '\\',
      "'",
      ';',
      '\t',
      ' ',
      '0',
      '9',
      '-',
      'Z',
      'T',
      '\n\n',
      '\n\\.\n',
      '""""',
      ',,',
      '\u2028',
      '\u0085',
    )
    .map(found => Buffer.from(found)),
  fc.uint8Array({ minLength: 1, maxLength: 3 }).map(bytes => Buffer.from(bytes)),
);
const shuffledHeader: fc.Arbitrary<Mutation> = fc
  .tuple(fc.nat(), fc.nat(), fc.constantFrom('swap', 'drop', 'double', 'case', 'quote'))
  .map(([first, second, how]) => file => {
    const end = file.indexOf('\n');
    if (end === -1) return file;
    const names = file.toString('utf8', 0, end).split(',');
    const [one, other] = [first % names.length, second % names.length];
    const [left = '', right = ''] = [names[one], names[other]];
    if (how === 'swap') [names[one], names[other]] = [right, left];
    else if (how === 'drop') names.splice(one, 1);
    else if (how === 'double') names[one] = right;
    else names[one] = how === 'case' ? left.toLowerCase() : `"${left}"`;
    return splice(file, 0, end, Buffer.from(names.join(',')));
  });
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.tuple(place, fc.nat({ max: 7 })).map(([at, bit]) => (file: Buffer) => {
    const index = at(file);
    const byte = file[index];
    return byte === undefined ? file : splice(file, index, 1, Buffer.from([byte ^ (1 << bit)]));
  }),
  fc.tuple(place, piece).map(
    ([at, insert]) =>
      (file: Buffer) =>
        splice(file, at(file), 0, insert),
  ),
  fc.tuple(place, piece).map(
    ([at, insert]) =>
      (file: Buffer) =>
        splice(file, at(file), 1, insert),
  ),
  fc.tuple(place, fc.integer({ min: 1, max: 40 })).map(
    ([at, count]) =>
      (file: Buffer) =>
        splice(file, at(file), count, Buffer.alloc(0)),
  ),
  place.map(at => (file: Buffer) => file.subarray(0, at(file))),
  fc.tuple(place, place, place).map(
    ([from, to, at]) =>
      (file: Buffer) =>
        splice(file, at(file), 0, file.subarray(from(file), to(file))),
  ),
  // Moves a quote.
  fc.tuple(fc.nat(), place).map(([number, at]) => (file: Buffer) => {
    const quotes = [...file.keys()].filter(index => file[index] === 0x22);
    const from = quotes[number % Math.max(quotes.length, 1)];
    if (from === undefined) return file;
    const without = splice(file, from, 1, Buffer.alloc(0));
    return splice(without, at(without), 0, Buffer.from('"'));
  }),
  fc.constantFrom<Mutation>(
    file => Buffer.from(file.toString('latin1').replaceAll('\n', '\r\n'), 'latin1'),
    file => Buffer.concat([Buffer.from('\ufeff'), file]),
    file => Buffer.concat([file, file]),
    file => file.subarray(0, file.length - 1),
    file => Buffer.concat([file, file.subarray(file.indexOf('\n') + 1)]),
    file => Buffer.from(file.toString(), 'utf16le'),
    file => Buffer.from(file.toString().replace(/\.\d{3}Z/g, '.1234567+02:00')),
    file => Buffer.from(file.toString().replace(/T00:00:00\.000Z/g, '')),
  ),
  shuffledHeader,
);

interface Sending {
  readonly packing: 'none' | 'gzip' | 'gzip in two members';
  /** Mutations of the packed body. */
  readonly damage: readonly Mutation[];
  /** Size of the pieces in which the body is sent. */
  readonly pieceBytes: number;
  /** Share of the body after which the connection is closed. Null sends the whole body. */
  readonly hangUpAt: number | null;
}
const sending: fc.Arbitrary<Sending> = fc.record({
  packing: fc.constantFrom('none', 'none', 'gzip', 'gzip in two members'),
  damage: fc.oneof(
    { arbitrary: fc.constant([]), weight: 3 },
    { arbitrary: fc.array(mutation, { maxLength: 1 }), weight: 1 },
  ),
  pieceBytes: fc.oneof(fc.integer({ min: 1, max: 60 }), fc.constant(65_536)),
  hangUpAt: fc.oneof(
    { arbitrary: fc.constant(null), weight: 15 },
    { arbitrary: fc.double({ min: 0, max: 0.999, noNaN: true }), weight: 1 },
  ),
});

function pack(file: Buffer, packing: Sending['packing']): Buffer {
  if (packing === 'none') return file;
  if (packing === 'gzip') return gzipSync(file);
  const half = file.length >> 1;
  return Buffer.concat([gzipSync(file.subarray(0, half)), gzipSync(file.subarray(half))]);
}

function unpack(body: Buffer, packing: Sending['packing']): Buffer | null {
  if (packing === 'none') return body;
  try {
    const { buffer, engine } = gunzipSync(body, { info: true }) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    // Node ignores bytes that start no further member.
    return engine.bytesWritten === body.length ? buffer : null;
  } catch {
    return null;
  }
}

async function hangUp(body: Buffer, packing: Sending['packing'], share: number): Promise<void> {
  const connection = await connectRaw(app.port);
  const encoding = packing === 'none' ? '' : 'Content-Encoding: gzip\r\n';
  connection.socket.write(
    `PUT /v1/environments/acme/snapshots/${ingested} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n${encoding}` +
      `Authorization: Bearer ${testAdminToken}\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  connection.socket.write(body.subarray(0, Math.floor(body.length * share)), () =>
    connection.socket.destroy(),
  );
  await connection.closed;
  await waitFor('the end of the ingest', () => app.dependencies.ingestLimit.active === 0);
}

function* piecesOf(body: Buffer, bytes: number): Generator<Buffer> {
  for (let at = 0; at < body.length; at += bytes) yield body.subarray(at, at + bytes);
}

t.test('ingests a mutated file exactly, or rejects it without any change', async t => {
  const first = ingestBody([adoptionRow()]);
  t.equal((await app.ingest('acme', ingested, first)).status, 201);
  let current = fileOf(Buffer.from(first), ingested, shown);
  const counts = { accepted: 0, refused: 0, hungUp: 0 };
  const mutations = fc.oneof(
    { arbitrary: fc.array(mutation, { minLength: 1, maxLength: 3 }), weight: 9 },
    { arbitrary: fc.constant([]), weight: 1 },
  );
  await fc.assert(
    fc.asyncProperty(
      goodFile,
      mutations,
      sending,
      async (good, mutations, { packing, damage, pieceBytes, hangUpAt }) => {
        const mutated = mutations.reduce<Buffer>((file, mutate) => mutate(file), good);
        const body = damage.reduce<Buffer>((file, mutate) => mutate(file), pack(mutated, packing));
        if (hangUpAt !== null && body.length > 0) {
          await hangUp(body, packing, hangUpAt);
          counts.hungUp += 1;
        } else {
          const unpacked = unpack(body, packing);
          const expected = unpacked === null ? null : fileOf(unpacked, ingested, shown);
          const headers = packing === 'none' ? {} : { 'content-encoding': 'gzip' };
          const send = () =>
            app.ingest('acme', ingested, Readable.from(piecesOf(body, pieceBytes)), headers);
          // An interrupted ingest may not have ended yet.
          const answer = await waitFor('an answer to the ingest', send, {
            isWanted: ({ status, json }) => status === 200 || json.code !== 'conflict',
          });
          const isAccepted = answer.status === 200;
          const what = `${answer.status} ${answer.text}\nfor ${JSON.stringify(unpacked?.toString('latin1'))}`;
          // A gzip stream that is not whole is refused as such.
          const refusal = unpacked === null ? 'validation_failed' : 'snapshot_invalid';
          if (
            !isAccepted &&
            answer.json.code !== refusal &&
            answer.json.code !== 'snapshot_invalid'
          )
            throw new Error(what);
          if (isAccepted !== (expected !== null)) throw new Error(`the oracle disagrees: ${what}`);
          counts[isAccepted ? 'accepted' : 'refused'] += 1;
          current = expected ?? current;
        }
        const file = (await app.download('acme', 'today')).text;
        if (file !== current)
          throw new Error(`shown ${JSON.stringify(file)}\ninstead of ${JSON.stringify(current)}`);
      },
    ),
    { numRuns: scaled(5_000), seed },
  );
  console.error(
    `mutated CSV: ${counts.accepted} ingested exactly, ${counts.refused} rejected, ${counts.hungUp} interrupted`,
  );
  t.ok(
    counts.accepted > scaled(5_000) / 20 && counts.refused > scaled(5_000) / 5,
    JSON.stringify(counts),
  );
  t.strictSame(
    app.log.filter(line => Number(line['level']) >= 50),
    [],
    'no log line at error level',
  );
});
