import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { convertInWorker } from '../../../src/exports/parquet/convert-in-worker.ts';
import { adoptionRow, exportHeader, exportLine } from '../../helpers/adoption-rows.ts';
import { longestBlockMs } from '../../helpers/longest-block.ts';

t.setTimeout(120_000);

const lines = Array.from({ length: 1_000 }, (_, index) =>
  exportLine(
    adoptionRow({ companyId: `company-${index}`, companyName: `Name ${index}` }),
    '2026-03-02',
  ),
);
const rows = Buffer.from(lines.join(''));

/** CSV that counts the pieces that were read and notes its end. */
function source(pieces: number) {
  const state = { read: 0, isClosed: false };
  async function* read(): AsyncGenerator<Buffer> {
    try {
      yield Buffer.from(exportHeader);
      for (; state.read < pieces; ) {
        state.read += 1;
        yield rows;
      }
    } finally {
      state.isClosed = true;
    }
  }
  return { state, csv: read() };
}

async function collect(bytes: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of bytes) pieces.push(piece);
  return Buffer.concat(pieces);
}

const never = new AbortController().signal;

t.test('converts equal CSV to equal bytes', async t => {
  const [one, other] = await Promise.all(
    [1, 2].map(() => collect(convertInWorker(source(6).csv, 6_000, never))),
  );
  t.ok(one?.equals(other ?? Buffer.alloc(0)));
  t.equal(one?.subarray(0, 4).toString(), 'PAR1');
  t.equal(one?.subarray(-4).toString(), 'PAR1');
});

t.test('reads at most two pieces ahead of its reader', async t => {
  const { state, csv } = source(1_000);
  const bytes = convertInWorker(csv, 1_000_000, never);
  await bytes.next();
  const read = state.read;
  t.ok(read <= 5 + 2, `one row group has 5 pieces, ${read} were read`);
  await delay(200);
  t.equal(state.read, read, 'nothing is read while the reader is busy');
  await bytes.return(undefined);
  t.ok(state.isClosed);
});

t.test('ends with the reason of the abort', async t => {
  const { state, csv } = source(Number.POSITIVE_INFINITY);
  const controller = new AbortController();
  const bytes = convertInWorker(csv, 0, controller.signal);
  await bytes.next();
  const next = (async () => {
    for await (const _ of bytes);
  })();
  controller.abort(new Error('enough'));
  await t.rejects(next, { message: 'enough' });
  t.ok(state.isClosed, 'the CSV is closed');
  await t.rejects(collect(convertInWorker(source(1).csv, 1_000, controller.signal)), {
    message: 'enough',
  });
});

t.test('fails with the error of the source, of the CSV and of the row count', async t => {
  async function* broken(): AsyncGenerator<Buffer> {
    yield Buffer.from(exportHeader);
    throw new Error('chunk lost');
  }
  async function* malformed(): AsyncGenerator<Buffer> {
    yield Buffer.from(`${exportHeader}a,b\n`);
    yield rows;
  }
  const cases: [AsyncGenerator<Buffer>, RegExp][] = [
    [broken(), /chunk lost/],
    [malformed(), /2 fields instead of 18/],
    [source(1).csv, /expected 999, read 1000/],
  ];
  for (const [csv, expected] of cases)
    await t.rejects(collect(convertInWorker(csv, 999, never)), expected);
});

t.test('leaves the event loop free', async t => {
  const longest = await longestBlockMs(() => collect(convertInWorker(source(8).csv, 8_000, never)));
  // One row group in this thread would take longer.
  t.ok(longest < 50, `blocked for ${longest} ms`);
});
