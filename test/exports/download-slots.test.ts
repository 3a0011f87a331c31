import type { IncomingMessage } from 'node:http';
import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { open } from '../helpers/http-client.ts';
import { eventually } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

const app = await startTestApp(t);
const environments = ['one', 'two', 'three'];
for (const environmentId of environments) {
  await app.putEnvironment(environmentId, 'pro');
  await writeWideSnapshot(app.database.pool, {
    environmentId,
    date: '2026-03-01',
    rows: 300,
    nameBytes: 50_000,
  });
}

const readers: IncomingMessage[] = [];
t.teardown(async () => {
  for (const reader of readers) reader.destroy();
  await eventually(() => app.dependencies.downloadLimit.active === 0);
});

/** Someone who asked for the file and does not read it. */
async function stalledReader(environmentId: string): Promise<number> {
  const response = await open(`${app.origin}/v1/environments/${environmentId}/exports/today.csv`, {
    headers: { authorization: `Bearer ${testAdminToken}` },
  });
  response.on('error', () => {});
  response.pause();
  readers.push(response);
  return response.statusCode ?? 0;
}

t.test('an environment has eight downloads at once, the process sixteen', async t => {
  for (let count = 1; count <= 8; count += 1) t.equal(await stalledReader('one'), 200);
  const refused = await app.download('one', 'today');
  t.equal(refused.status, 429);
  t.equal(refused.json.code, 'too_many_downloads');
  t.match(String(refused.headers['retry-after']), /^[1-9]\d*$/);
  t.equal((await app.call('/v1/environments/one/exports/today.csv.gz')).status, 429);

  for (let count = 1; count <= 8; count += 1)
    t.equal(await stalledReader('two'), 200, 'the others have theirs');
  t.equal((await app.download('three', 'today')).status, 429, 'the process is full');
});

t.test('meanwhile everything short is served', async t => {
  t.equal((await app.call('/health/ready')).status, 200);
  t.equal((await app.call('/v1/environments/three/exports')).status, 200);
  t.equal(
    (await app.call('/v1/environments/three/exports/today.csv', { method: 'HEAD' })).status,
    200,
  );
  t.match((await app.call('/metrics')).text, /^whx_downloads_in_progress 16$/m);
});

t.test('a slot is free again when its reader goes, or has read all', async t => {
  readers.shift()?.destroy();
  await eventually(() => app.dependencies.downloadLimit.active === 15);
  t.equal((await app.download('three', 'today')).status, 200);
  t.equal((await app.download('three', 'today')).status, 200);
  for (const reader of readers.splice(0, 5)) for await (const _chunk of reader);
  await eventually(() => app.dependencies.downloadLimit.active === 10);
});

t.test('a refused or failed request keeps no slot', async t => {
  const taken = app.dependencies.downloadLimit.active;
  await app.putEnvironment('free', 'free');
  for (let count = 1; count <= 20; count += 1) {
    t.equal((await app.download('free', 'today')).status, 403);
    t.equal((await app.download('three', 'nonsense')).status, 400);
  }
  t.equal(app.dependencies.downloadLimit.active, taken);
});
