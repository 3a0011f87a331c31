import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { isoDate } from '../../src/http/schemas.ts';
import { startApp } from '../helpers/app.ts';
import { ask } from '../helpers/http-client.ts';
import { writeDenseSnapshot } from '../helpers/kept-parts.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startApiProcess } from '../helpers/service-process.ts';

/** The part store's disk is full, over and over, and the process is killed in between. */

t.setTimeout(300_000);

const days = 6;
const rounds = 4;

t.test('downloads stay whole', async t => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-full-'));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', directory]);
  if (mounted.status !== 0) {
    fs.rmSync(directory, { recursive: true });
    t.pass('left out', {
      skip: `no tmpfs can be mounted: ${mounted.error?.message ?? mounted.stderr}`,
    });
    return;
  }
  t.teardown(async () => {
    spawnSync('umount', ['-l', directory]);
    fs.rmSync(directory, { recursive: true, force: true });
  });
  const database = await createTestDatabase(t);
  const plain = await startApp(t, { databaseUrl: database.url, now: new Date().toISOString() });
  await plain.putEnvironment('acme');
  for (let day = 1; day <= days; day += 1) {
    const date = isoDate(new Date(Date.now() - day * 86_400_000));
    // About 800 kB each, packed: more than fit in all.
    await writeDenseSnapshot(database.pool, {
      environmentId: 'acme',
      date,
      rows: 2_000,
      salt: date,
    });
  }
  const file = (await plain.download('acme', '30-days-daily')).body;
  let full = 0;
  for (let round = 0; round < rounds; round += 1) {
    // The store believes that there is room.
    const service = await startApiProcess(database.url, {
      PART_STORE_DIR: directory,
      PART_STORE_MB: '64',
    });
    t.teardown(() => service.end('SIGKILL'));
    const get = (name: string, headers = {}) =>
      ask(`${service.origin}/v1/environments/acme/exports/${name}`, {
        headers: { authorization: `Bearer ${testAdminToken}`, ...headers },
      });
    const answers = await Promise.all([
      get('30-days-daily.csv'),
      get('30-days-daily.csv.gz'),
      get('30-days-daily.csv', { 'accept-encoding': 'gzip' }),
      get('30-days-daily.csv'),
    ]);
    for (const { body, headers } of answers) {
      const isPacked = body[0] === 0x1f;
      t.ok((isPacked ? gunzipSync(body) : body).equals(file), String(headers['content-type']));
    }
    full += service.logged().filter(line => /ENOSPC/.test(JSON.stringify(line))).length;
    // In the middle of one more, so that it leaves an unfinished file.
    const last = get('30-days-daily.csv').catch(() => null);
    await service.end('SIGKILL');
    await last;
  }
  t.ok(full > 0, 'it was full');
});
