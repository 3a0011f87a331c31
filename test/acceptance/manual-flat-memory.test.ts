import fs from 'node:fs';
import { Readable } from 'node:stream';
import t from 'tap';
import {
  adoptionRow,
  exportHeader,
  exportLine,
  ingestColumns,
  ingestLine,
} from '../helpers/adoption-rows.ts';
import { ask, open } from '../helpers/http-client.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startApiProcess } from '../helpers/service-process.ts';

t.setTimeout(300_000);

const mebibyte = 2 ** 20;
const leastBytes = 96 * mebibyte;
/**
 * Memory that V8 and malloc keep for later chunks. A buffered body or file would need more. The
 * process renders the snapshot during the refused ingest and the first export.
 */
const mostGrowthMiB = { ingest: 96, export: 128 };

if (process.platform !== 'linux') t.bailout('reads /proc');

const row = (id: number) =>
  adoptionRow({
    companyId: `company-${String(id).padStart(9, '0')}`,
    // Long rows make many bytes with little CPU time.
    companyName: 'A name of a company '.repeat(80),
    firstUsed: '2026-01-01T00:00:00.000Z',
    lastUsed: '2026-02-01T00:00:00.000Z',
    segmentNames: ['Everybody', 'Paying', 'In the European Union'],
    segmentIds: ['segment-1', 'segment-2', 'segment-3'],
  });
const rowCount = Math.ceil(leastBytes / ingestLine(row(0)).length);

/**
 * Yields the body while it is sent.
 *
 * @param firstLines rows before the others
 */
function* bodyPieces(firstLines = ''): Generator<Buffer> {
  yield Buffer.from(`${ingestColumns.join(',')}\n${firstLines}`);
  const template = ingestLine(row(0));
  for (let id = 0; id < rowCount; id += 50) {
    let piece = '';
    for (let next = id; next < Math.min(id + 50, rowCount); next += 1) {
      piece += template.replace('000000000', String(next).padStart(9, '0'));
    }
    yield Buffer.from(piece);
  }
}

const today = new Date().toISOString().slice(0, 10);
const database = await createTestDatabase(t);
const service = await startApiProcess(database.url, { PROCESS_ROLE: 'all' });
t.teardown(() => service.end('SIGTERM'));
const url = `${service.origin}/v1/environments/big`;
const authorization = { authorization: `Bearer ${testAdminToken}` };

function residentMiB(): number {
  const status = fs.readFileSync(`/proc/${service.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

/** Returns the highest memory of the service while `work` runs. */
async function peakDuring(work: () => Promise<void>): Promise<number> {
  let peak = residentMiB();
  const sampler = setInterval(() => {
    peak = Math.max(peak, residentMiB());
  }, 20);
  try {
    await work();
  } finally {
    clearInterval(sampler);
  }
  return peak;
}

t.test('needs constant memory for a large body and a large export', async t => {
  await ask(url, {
    method: 'PUT',
    headers: { ...authorization, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'big', plan: 'pro' }),
  });
  const ingest = (pieces: Iterable<Buffer>) =>
    ask(`${url}/snapshots/${today}`, {
      method: 'PUT',
      headers: { ...authorization, 'content-type': 'text/csv' },
      body: Readable.from(pieces),
    });
  const idle = residentMiB();

  const ingesting = await peakDuring(async () => {
    t.equal((await ingest(bodyPieces())).json.rowCount, rowCount);
  });
  t.ok(
    ingesting - idle < mostGrowthMiB.ingest,
    `ingest: idle ${idle.toFixed(0)} MiB, highest ${ingesting.toFixed(0)} MiB`,
  );

  const refusing = await peakDuring(async () => {
    const { json } = await ingest(bodyPieces(ingestLine(row(0))));
    t.match(json, { errorCount: 1, errors: [{ row: 2, column: 'Company ID' }] });
  });
  t.ok(
    refusing - idle < mostGrowthMiB.ingest,
    `refused ingest: idle ${idle.toFixed(0)} MiB, highest ${refusing.toFixed(0)} MiB`,
  );

  const expectedBytes = exportHeader.length + rowCount * exportLine(row(0), today).length;
  for (const time of ['first', 'second']) {
    let bytes = 0;
    const sending = await peakDuring(async () => {
      const file = await open(`${url}/exports/today.csv`, { headers: authorization });
      for await (const chunk of file) bytes += chunk.length;
    });
    t.equal(bytes, expectedBytes);
    t.ok(bytes >= leastBytes);
    t.ok(
      sending - idle < mostGrowthMiB.export,
      `${time} export: highest ${sending.toFixed(0)} MiB`,
    );
  }
});
