import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import t from 'tap';
import { migrateToLatest } from '../../src/db/migrator.ts';

const adminUrl = process.env['TEST_POSTGRES_URL'] ?? '';
const files = fs.readdirSync(path.join(import.meta.dirname, '../../migrations'));
const names = files.map(file => path.basename(file, '.ts')).sort();

t.test('migrates an empty database once if several processes start together', async t => {
  const admin = new pg.Client({ connectionString: adminUrl });
  await admin.connect();
  const name = `whx_migrate_${randomBytes(6).toString('hex')}`;
  await admin.query(`create database ${name}`);
  try {
    const url = new URL(adminUrl);
    url.pathname = `/${name}`;
    const done = await Promise.all(Array.from({ length: 4 }, () => migrateToLatest(url.href)));
    t.strictSame(done.flat().sort(), names);
    t.equal(
      done.filter(migrated => migrated.length > 0).length,
      1,
      'one process ran all migrations',
    );
    t.strictSame(await migrateToLatest(url.href), [], 'another call migrates nothing');
  } finally {
    await admin.query(`drop database ${name}`);
    await admin.end();
  }
});
