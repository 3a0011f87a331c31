import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { type ShownDate, shownDates } from '../../src/exports/aggregations.ts';
import { describeExport } from '../../src/exports/describe-export.ts';
import { openExport } from '../../src/exports/open-export.ts';
import type { Compression } from '../../src/shared/file-format.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp, testNow } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** Files of rendered snapshots, read from their chunks. */

const app = await startTestApp(t);
const { pool } = app.database;
const today = '2026-03-02';
const signal = new AbortController().signal;

async function collect(pieces: AsyncIterable<Buffer>): Promise<Buffer> {
  const found: Buffer[] = [];
  for await (const piece of pieces) found.push(piece);
  return Buffer.concat(found);
}

async function open(
  environmentId: string,
  dates: readonly ShownDate[],
  compression: Compression = 'none',
) {
  const wanted = { environmentId, dates, format: 'csv', compression } as const;
  const takePlace = () => app.dependencies.parquetPlaces.takeForDownload(environmentId);
  const described = await describeExport(app.dependencies.exportPool, wanted);
  return await openExport(app.dependencies, described, { signal, takePlace });
}

const dates = shownDates('3-months-weekly', today);

/**
 * An environment with odd text, several chunks, an empty snapshot and a snapshot that is shown
 * under another date.
 */
await app.putEnvironment('mixed');
await writeDenseSnapshot(pool, { environmentId: 'mixed', date: '2026-02-01', rows: 2_400 });
await app.ingest(
  'mixed',
  '2026-02-08',
  ingestBody([
    adoptionRow({ companyName: ',2026-02-08,"\n', featureName: '"', segmentNames: ['a,b', 'c"'] }),
    adoptionRow({ companyId: 'c2', companyName: null }),
  ]),
);
await app.ingest('mixed', '2026-02-15', ingestBody([]));
await writeDenseSnapshot(pool, { environmentId: 'mixed', date: '2026-02-20', rows: 1_600 });
await app.ingest('mixed', '2026-03-01', ingestBody([adoptionRow()]));

async function readMixed() {
  const plain = await open('mixed', dates);
  const gzip = await open('mixed', dates, 'gzip');
  return {
    sizeBytes: plain.sizeBytes,
    plain: await collect(plain.bytes()),
    gzip: await collect(gzip.bytes()),
  };
}

const before = await readMixed();
await renderAll(app);

t.test('writes the same bytes before and after rendering', async t => {
  t.equal(before.sizeBytes, null, 'the size is unknown before rendering');
  const { rowCount: chunks } = await pool.query(
    `select from snapshot_chunks where environment_id = 'mixed'`,
  );
  t.ok(Number(chunks) > 6, `${chunks} chunks`);
  const after = await readMixed();
  t.ok(after.plain.equals(before.plain));
  t.ok(after.gzip.equals(before.gzip));
  t.ok(gunzipSync(after.gzip).equals(after.plain));
  t.ok(
    execFileSync('gzip', ['-dc'], { input: after.gzip, maxBuffer: 2 ** 27 }).equals(after.plain),
  );
  t.match(after.plain.toString(), `${exportHeader}00000001,`);
});

t.test('describes size, hash and time of the newest snapshot', async t => {
  const newest = '2026-11-12T13:14:15.678Z';
  await pool.query(
    `update snapshots set completed_at = $1
     where environment_id = 'mixed' and snapshot_date = '2026-02-01'`,
    [newest],
  );
  for (const compression of ['none', 'gzip'] as const) {
    const own = [
      { date: '2026-02-01', from: '2026-02-01' },
      { date: '2026-03-01', from: null },
    ];
    const opened = await open('mixed', own, compression);
    t.equal(opened.sizeBytes, (await collect(opened.bytes())).length, compression);
    t.equal(opened.lastModified?.toISOString(), newest);
    t.match(opened.contentHash, /^[0-9a-f]{64}$/);
    const again = await open('mixed', own, compression);
    t.equal(again.contentHash, opened.contentHash);
    again.close();
  }
  const shown = await open('mixed', dates);
  t.not(shown.sizeBytes, null, 'the plain length does not depend on the date');
  shown.close();
  const gzip = await open('mixed', dates, 'gzip');
  t.equal(gzip.sizeBytes, null);
  t.not(gzip.contentHash, shown.contentHash);
  gzip.close();
  const empty = await open('mixed', [{ date: '2020-01-01', from: null }]);
  t.equal(empty.lastModified, null);
  t.equal(empty.sizeBytes, exportHeader.length);
  empty.close();
});

t.test('reads any range, plain and gzip', async t => {
  const own = ['2026-02-01', '2026-02-08', '2026-02-15', '2026-02-20', '2026-03-01'].map(date => ({
    date,
    from: date,
  }));
  for (const [name, shown, compression] of [
    ['plain', own, 'none'],
    ['plain under other dates', dates, 'none'],
    ['gzip', own, 'gzip'],
  ] as const) {
    const whole = await collect((await open('mixed', shown, compression)).bytes());
    const last = whole.length - 1;
    const ranges = [
      [0, 0],
      [0, last],
      [last, last],
      [last - 9, last],
      [1, last - 1],
      ...Array.from({ length: 5 }, () => {
        const start = randomInt(whole.length);
        return [start, start + randomInt(whole.length - start)] as const;
      }),
    ] as const;
    for (const [start, end] of ranges) {
      const opened = await open('mixed', shown, compression);
      const part = await collect(opened.bytes({ start, end }));
      if (!part.equals(whole.subarray(start, end + 1))) t.fail(`${name}: ${start} to ${end}`);
    }
    t.pass(`${name}: ${ranges.length} ranges`);
  }
});

t.test("shows today's snapshot under its date and under the next", async t => {
  const rows = [adoptionRow({ companyId: 'now' })];
  await app.putEnvironment('dated');
  await app.ingest('dated', today, ingestBody(rows));
  await renderAll(app);
  t.equal((await app.download('dated', 'today')).text, exportHeader + exportPart(rows, today));
  app.setNow('2026-03-03T01:00:00.000Z');
  t.teardown(() => app.setNow(testNow));
  const next = exportHeader + exportPart(rows, '2026-03-03');
  t.equal((await app.download('dated', 'today')).text, next);
  const gzip = await app.call('/v1/environments/dated/exports/today.csv.gz');
  t.equal(gunzipSync(gzip.body).toString(), next);
});

t.test('completes a file with the version that it started with', async t => {
  await app.putEnvironment('moving');
  await writeDenseSnapshot(pool, { environmentId: 'moving', date: '2026-02-22', rows: 4_500 });
  await app.ingest('moving', '2026-03-01', ingestBody([adoptionRow()]));
  await renderAll(app);
  const file = await collect((await open('moving', dates)).bytes());
  const opened = await open('moving', dates);
  const bytes = opened.bytes();
  const first = await bytes.next();
  await app.ingest('moving', '2026-03-01', ingestBody([adoptionRow({ companyName: 'replaced' })]));
  await renderAll(app);
  const rest = await collect(bytes);
  t.ok(Buffer.concat([first.value as Buffer, rest]).equals(file));
  t.not((await open('moving', dates)).contentHash, opened.contentHash);
});

t.test('holds no database connection while its reader waits', async t => {
  const readers: AsyncGenerator<Buffer>[] = [];
  // More than the pool of exports has connections.
  for (let index = 0; index < 12; index += 1) {
    const compression = index % 2 === 0 ? 'none' : 'gzip';
    const bytes = (await open('mixed', dates, compression)).bytes();
    await bytes.next();
    await bytes.next();
    readers.push(bytes);
  }
  const { pools } = app.dependencies;
  const borrowed = () =>
    [pools.export, pools.session].map(({ totalCount, idleCount }) => totalCount - idleCount);
  // Batches that are read ahead still arrive.
  await waitFor('the return of all connections', () => borrowed().every(count => count === 0));
  const { rows } = await pool.query(
    `select state from pg_stat_activity
     where datname = current_database() and application_name ~ 'export (export|session)'
       and state <> 'idle'`,
  );
  t.strictSame(rows, []);
  for (const bytes of readers) await bytes.return(undefined);
});

const ofDamaged = `environment_id = 'damaged'`;
const damages: Record<string, string> = {
  'a changed byte': `
    update snapshot_chunks set deflated = set_byte(deflated, octet_length(deflated) / 2,
      (get_byte(deflated, octet_length(deflated) / 2) + 1) % 256)
    where index = 1 and ${ofDamaged}`,
  'a missing chunk': `delete from snapshot_chunks where index = 1 and ${ofDamaged}`,
  'a missing last chunk': `
    delete from snapshot_chunks
    where index = (select max(index) from snapshot_chunks where ${ofDamaged}) and ${ofDamaged}`,
  'a chunk cut short': `
    update snapshot_chunks set deflated = substring(deflated for octet_length(deflated) - 5)
    where index = 1 and ${ofDamaged}`,
  'another plain length': `
    update snapshot_chunks set plain_bytes = plain_bytes + 1 where index = 1 and ${ofDamaged}`,
  'one chunk twice': `
    update snapshot_chunks as one
    set deflated = other.deflated, plain_bytes = other.plain_bytes, checksum = other.checksum
    from snapshot_chunks as other
    where one.environment_id = other.environment_id and one.version = other.version
      and one.index = 1 and other.index = 2 and one.${ofDamaged}`,
  'another total length': `
    update rendered_snapshots set plain_bytes = plain_bytes - 1, deflated_bytes = deflated_bytes - 1
    where ${ofDamaged}`,
};

t.test('never completes a file with damaged chunks', async t => {
  await app.putEnvironment('damaged');
  await writeDenseSnapshot(pool, { environmentId: 'damaged', date: today, rows: 2_200 });
  await renderAll(app);
  t.equal((await app.download('damaged', 'today')).status, 200);
  for (const table of ['rendered_snapshots', 'snapshot_chunks'])
    await pool.query(`create table saved_${table} as select * from ${table} where ${ofDamaged}`);
  for (const [what, sql] of Object.entries(damages)) {
    await pool.query(`delete from rendered_snapshots where ${ofDamaged}`);
    for (const table of ['rendered_snapshots', 'snapshot_chunks'])
      await pool.query(`insert into ${table} table saved_${table}`);
    t.equal((await pool.query(sql)).rowCount, 1, what);
    for (const headers of [{}, { 'accept-encoding': 'gzip' }]) {
      // The plain length of a chunk is not used for gzip. That file is correct.
      if (what === 'another plain length' && 'accept-encoding' in headers) continue;
      const result = await app.download('damaged', 'today', headers).then(
        ({ status }) => status,
        (error: NodeJS.ErrnoException) => error.code,
      );
      const name = `${what}, ${JSON.stringify(headers)}: ${result}`;
      t.ok(result === 'ECONNRESET' || result === 500, name);
    }
  }
});

t.test('deletes the chunks of a deleted environment', async t => {
  await app.putEnvironment('deleted');
  await app.ingest('deleted', today, ingestBody([adoptionRow()]));
  await renderAll(app);
  const counts = () =>
    Promise.all(
      ['rendered_snapshots', 'snapshot_chunks'].map(
        async table =>
          (await pool.query(`select from ${table} where environment_id = 'deleted'`)).rowCount,
      ),
    );
  t.strictSame(await counts(), [1, 1]);
  await app.call('/v1/environments/deleted', { method: 'DELETE' });
  t.strictSame(await counts(), [0, 0]);
});
