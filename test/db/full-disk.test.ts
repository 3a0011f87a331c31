import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { DatabaseError } from 'pg';
import t from 'tap';
import { isDatabaseUnavailable } from '../../src/db/errors.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { createTestDatabase } from '../helpers/postgres.ts';

t.test('answers 503 while the disk of the database is full', async t => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-disk-'));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', directory]);
  if (mounted.status !== 0) {
    fs.rmSync(directory, { recursive: true });
    t.pass('left out', { skip: 'no tmpfs can be mounted' });
    return;
  }
  t.teardown(async () => {
    spawnSync('umount', ['-l', directory]);
    fs.rmSync(directory, { recursive: true, force: true });
  });
  const database = await createTestDatabase(t);
  const { rows } = await database.pool.query('show data_directory');
  const { uid, gid } = fs.statSync(rows[0].data_directory);
  fs.chownSync(directory, uid, gid);
  const tablespace = `whx_${randomBytes(4).toString('hex')}`;
  await database.pool.query(`create tablespace ${tablespace} location '${directory}'`);
  t.teardown(async () => {
    await database.pool.query(`drop table snapshot_rows cascade`);
    await database.pool.query(`drop tablespace ${tablespace}`);
  });
  await database.pool.query(
    `alter database ${database.name} set default_tablespace = ${tablespace}`,
  );

  const app = await startApp(t, { databaseUrl: database.url });
  await app.putEnvironment('acme');
  const body = ingestBody(
    Array.from({ length: 20_000 }, (_, index) => adoptionRow({ companyId: `company ${index}` })),
  );
  const answer = await app.ingest('acme', '2026-03-02', body);
  t.equal(answer.status, 503, answer.text);
  t.equal(answer.json.code, 'unavailable');
  t.ok(answer.headers['retry-after']);
  t.strictSame((await app.call('/v1/environments/acme/snapshots')).json.items, []);
});

t.test('treats every resource shortage of the server as unavailability', async t => {
  for (const code of ['53000', '53100', '53200', '53300', '53400', '58030']) {
    const error = Object.assign(new DatabaseError('shortage', 1, 'error'), { code });
    t.ok(isDatabaseUnavailable(error), code);
  }
});
