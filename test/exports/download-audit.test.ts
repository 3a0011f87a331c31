import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { ask, open } from '../helpers/http-client.ts';
import { eventually } from '../helpers/raw-http.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

const app = await startTestApp(t);
const { pool } = app.database;
await app.putEnvironment('acme', 'pro');
await app.putEnvironment('wide', 'pro');
await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
await writeWideSnapshot(pool, {
  environmentId: 'wide',
  date: '2026-03-01',
  rows: 1_000,
  nameBytes: 50_000,
});
const key = await app.makeKey('acme', ['exports:read']);

interface Line {
  readonly actor: object;
  readonly action: string;
  readonly targetId: string;
  readonly details: Record<string, unknown>;
  readonly requestId: string;
}

async function linesOf(environmentId: string, action: string): Promise<Line[]> {
  const answer = await app.call(
    `/v1/audit-log?environmentId=${environmentId}&action=${action}&limit=100`,
  );
  return answer.json.items;
}

async function countLines(): Promise<number> {
  const { rowCount } = await pool.query(`select from audit_log where action = 'export.downloaded'`);
  return rowCount ?? 0;
}

let seen = 0;
/** Waits for exactly one further audit entry of a download and returns it. */
async function nextLine(environmentId = 'acme'): Promise<Line | undefined> {
  await eventually(async () => (await countLines()) > seen, 'an audit entry of a download');
  seen += 1;
  if ((await countLines()) !== seen) throw new Error('more audit entries than downloads');
  return (await linesOf(environmentId, 'export.downloaded'))[0];
}

t.test('writes one audit entry per download with caller, file, outcome and bytes', async t => {
  const path = '/v1/environments/acme/exports/30-days-daily.csv?asOf=2026-03-02';
  const answer = await app.call(path, { token: key.token, headers: { 'x-request-id': 'r-1' } });
  t.equal(answer.status, 200);
  const line = await nextLine();
  t.match(line, {
    actor: { kind: 'api-key', id: key.id },
    environmentId: 'acme',
    targetId: '30-days-daily',
    callerRequestId: 'r-1',
    details: { format: 'csv', compression: 'none', asOf: '2026-03-02', outcome: 'complete' },
  });
  t.ok(Number(line?.details['bytes']) >= answer.body.length);

  await app.call('/v1/environments/acme/exports/today.csv.gz');
  t.match(await nextLine(), {
    actor: { kind: 'operator', id: null },
    targetId: 'today',
    details: { compression: 'gzip', asOf: null, outcome: 'complete' },
  });
});

t.test('writes no audit entry for HEAD, 304, 412 and rejected requests', async t => {
  const path = '/v1/environments/acme/exports/today.csv';
  const { headers } = await app.call(path, { method: 'HEAD' });
  const { etag = '' } = headers;
  t.equal((await app.call(path, { headers: { 'if-none-match': etag } })).status, 304);
  t.equal((await app.call(path, { headers: { 'if-match': '"x"' } })).status, 412);
  t.equal((await app.call(`${path}?asOf=2026-03-03`)).status, 400);
  t.equal((await app.call('/v1/environments/absent/exports/today.csv')).status, 404);
  await app.call(path);
  await nextLine();
});

t.test('writes the outcome of an aborted and of a failed download', async t => {
  const response = await open(`${app.origin}/v1/environments/wide/exports/today.csv`, {
    headers: { authorization: `Bearer ${(await app.makeKey('wide', ['exports:read'])).token}` },
  });
  response.on('error', () => {});
  response.destroy();
  t.match(await nextLine('wide'), { details: { outcome: 'reader_gone' } });

  await pool.query(
    `update snapshots set row_count = 99, version = gen_random_uuid() where environment_id = 'wide'`,
  );
  await app.download('wide', 'today').catch(() => {});
  t.match(await nextLine('wide'), { details: { outcome: 'failed' } });
});

t.test('writes an audit entry for a link and one for each download by it', async t => {
  for (const [token, actor] of [
    [key.token, { kind: 'api-key', id: key.id }],
    [undefined, { kind: 'operator', id: null }],
  ] as const) {
    const made = await app.call('/v1/environments/acme/download-links', {
      method: 'POST',
      json: { aggregation: 'today', asOf: '2026-03-01', expiresInSeconds: 60 },
      ...(token && { token }),
    });
    registerSecret(made.json.url.split('/').at(-1));
    const [line] = await linesOf('acme', 'download_link.created');
    t.match(line, {
      actor,
      details: {
        aggregation: 'today',
        format: 'csv',
        compression: 'none',
        asOf: '2026-03-01',
        expiresAt: made.json.expiresAt,
      },
    });
    t.equal((await ask(made.json.url, { method: 'HEAD' })).status, 200);
    t.equal((await ask(made.json.url)).status, 200);
    t.match(await nextLine(), {
      actor,
      targetId: 'today',
      details: { linkId: line?.targetId, outcome: 'complete' },
    });
  }
});

t.test('logs an audit entry that cannot be written and completes the download', async t => {
  await pool.query('alter table audit_log add constraint closed check (false) not valid');
  t.equal((await app.download('acme', 'today')).status, 200);
  await eventually(
    () => app.log.some(line => line['msg'] === 'audit line of a download lost'),
    'the log line',
  );
  await pool.query('alter table audit_log drop constraint closed');
  t.equal((await app.download('acme', 'today')).status, 200);
  t.match(await nextLine(), { details: { outcome: 'complete' } });
});

t.test('waits for the audit entry at shutdown, not in the download', async t => {
  const locker = await pool.connect();
  await locker.query('begin; lock table audit_log in access exclusive mode');
  const answer = await app.download('acme', 'today');
  t.equal(answer.status, 200);
  const closed = app.app.close();
  await locker.query('commit');
  locker.release();
  await closed;
  t.equal(await countLines(), seen + 1);
});
