import t from 'tap';
import {
  type AdoptionRow,
  adoptionRow,
  exportHeader,
  exportPart,
  ingestBody,
  ingestColumns,
  ingestLine,
} from '../../helpers/adoption-rows.ts';
import { startTestApp } from '../../helpers/app.ts';
import { connectRaw } from '../../helpers/raw-http.ts';
import { testAdminToken } from '../../helpers/secrets.ts';
import { slowExport, slowIngest } from '../../helpers/slow-transfers.ts';
import { waitFor } from '../../helpers/wait-for.ts';

const app = await startTestApp(t);
const { pool } = app.database;
const header = `${ingestColumns.join(',')}\n`;
const date = '2026-03-02';

const noIngests = () =>
  waitFor('the end of all ingests', async () => {
    const { rows } = await pool.query(
      `select from pg_stat_activity where datname = current_database() and application_name = 'warehouse-export ingest' and state <> 'idle'`,
    );
    return rows.length === 0 && app.dependencies.ingestLimit.active === 0;
  });

t.test('answers 409 to a second ingest of the same snapshot, but not of another one', async t => {
  for (const id of ['one', 'two']) await app.putEnvironment(id, 'pro');
  const slow = await slowIngest(app, 'one', date);
  const refused = await app.ingest('one', date, ingestBody([adoptionRow()]));
  t.equal(refused.status, 409);
  t.equal(refused.json.code, 'conflict');
  t.equal(refused.headers['retry-after'], '10');
  const deletion = await app.call(`/v1/environments/one/snapshots/${date}`, { method: 'DELETE' });
  t.equal(deletion.status, 409);
  t.equal(deletion.headers['retry-after'], '10');
  t.equal((await app.ingest('one', '2026-03-01', ingestBody([adoptionRow()]))).status, 201);
  t.equal((await app.ingest('two', date, ingestBody([adoptionRow()]))).status, 201);
  t.equal(await slow.end(), 201);
  t.equal((await app.ingest('one', date, ingestBody([adoptionRow()]))).status, 200);
});

t.test('answers 409 to the deletion of an environment while a snapshot is replaced', async t => {
  await app.putEnvironment('used', 'pro');
  await app.ingest('used', date, ingestBody([adoptionRow()]));
  const slow = await slowIngest(app, 'used', date);
  const deletion = await app.call('/v1/environments/used', { method: 'DELETE' });
  t.match(deletion, { status: 409, json: { code: 'conflict' }, headers: { 'retry-after': '10' } });
  t.equal(await slow.end(), 200);
  t.equal((await app.call('/v1/environments/used', { method: 'DELETE' })).status, 204);
});

t.test('answers 429 beyond the concurrency limit of ingests', async t => {
  await app.putEnvironment('limited', 'pro');
  const slow = [
    await slowIngest(app, 'limited', '2026-02-01'),
    await slowIngest(app, 'limited', '2026-02-02'),
  ];
  t.equal(app.dependencies.ingestLimit.active, 2);
  const refused = await app.ingest('limited', '2026-02-03', ingestBody([adoptionRow()]));
  t.equal(refused.status, 429);
  t.equal(refused.json.code, 'rate_limited');
  t.match(String(refused.headers['retry-after']), /^\d+$/);
  t.strictSame(await Promise.all(slow.map(ingest => ingest.end())), [201, 201]);
  await noIngests();
});

t.test('changes nothing and frees everything if the caller disconnects', async t => {
  await app.putEnvironment('kept', 'pro');
  await app.ingest('kept', date, ingestBody([adoptionRow({ companyName: 'Kept' })]));
  for (const version of ['chunked', 'with a length']) {
    const connection = await connectRaw(app.port);
    const row = ingestLine(adoptionRow({ companyName: 'Lost' }));
    const framing =
      version === 'chunked' ? 'Transfer-Encoding: chunked' : 'Content-Length: 1000000';
    connection.socket.write(
      `PUT /v1/environments/kept/snapshots/${date} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n` +
        `Authorization: Bearer ${testAdminToken}\r\n${framing}\r\n\r\n`,
    );
    const text = header + row;
    connection.socket.write(
      version === 'chunked' ? `${text.length.toString(16)}\r\n${text}\r\n` : text,
    );
    await waitFor('the start of the ingest', () => app.dependencies.ingestLimit.active === 1);
    connection.socket.destroy();
    await noIngests();
    t.match((await app.download('kept', 'today')).text, /Kept/, version);
  }
  t.equal(
    (await app.ingest('kept', date, ingestBody([adoptionRow()]))).status,
    200,
    'another ingest succeeds',
  );
});

t.test('accepts two concurrent ingests of the same new day', async t => {
  for (const id of ['east', 'west']) await app.putEnvironment(id, 'pro');
  for (let day = 1; day <= 4; day += 1) {
    const fresh = `2025-05-${String(day).padStart(2, '0')}`;
    const answers = await Promise.all(
      ['east', 'west'].map(id => app.ingest(id, fresh, ingestBody([adoptionRow()]))),
    );
    t.strictSame(
      answers.map(({ status }) => status),
      [201, 201],
      fresh,
    );
  }
  const { rows } = await pool.query(
    `select count(*)::int as count from pg_inherits where inhparent = 'snapshot_rows'::regclass`,
  );
  t.ok(rows[0].count >= 4);
});

t.test('neither blocks nor waits for an export, which shows the old version', async t => {
  for (const id of ['read', 'written']) await app.putEnvironment(id, 'pro');
  const reading = await slowExport(app, 'read');
  // A new day needs a partition.
  t.equal((await app.ingest('written', '2025-06-02', ingestBody([adoptionRow()]))).status, 201);
  const client = await pool.connect();
  await client.query(`set lock_timeout = '5s'`);
  await client.query(`select ensure_snapshot_partition('2025-06-01')`);
  await client.query('set lock_timeout = default');
  // In the other direction: an export runs while the transaction that creates a partition is open.
  await client.query(`begin; select ensure_snapshot_partition('2025-06-03')`);
  t.equal((await app.download('written', '6-months-weekly')).status, 200);
  t.equal((await app.ingest('written', '2025-06-02', ingestBody([adoptionRow()]))).status, 200);
  await client.query('commit');
  client.release();

  // The export reads the first day now and the second day later.
  const fresh: AdoptionRow[] = [adoptionRow({ companyName: 'new' })];
  for (const day of ['2026-02-27', '2026-02-28'])
    t.equal((await app.ingest('read', day, ingestBody(fresh))).status, 200);
  const deletion = await app.call('/v1/environments/read/snapshots/2026-02-28', {
    method: 'DELETE',
  });
  t.equal(deletion.status, 204);
  const lines = (await reading.end()).trimEnd().split('\n').slice(1);
  t.equal(lines.length, 810);
  t.equal(reading.headers['x-total-rows'], '810');
  t.ok(lines.every(line => line.includes(',xxx')));
  t.equal(lines.filter(line => line.includes(',2026-02-28,')).length, 10);
  const next = await app.download('read', '30-days-daily');
  t.equal(next.text, exportHeader + exportPart(fresh, '2026-02-27'));
});
