import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pg from 'pg';
import t from 'tap';
import { embeddedBinDirectory } from '../../dev/postgres-binaries.ts';
import { startPostgresServer } from '../../dev/postgres-server.ts';

/** An ordinary user runs Postgres as themselves, so a closed folder is no obstacle. */
const skip = process.getuid?.() === 0 ? false : 'only root runs Postgres as another user';

t.test('starts from a folder that only root may enter', { skip }, async t => {
  const closed = fs.mkdtempSync(path.join(os.tmpdir(), `it's a "closed" $folder `));
  t.teardown(() => fs.rmSync(closed, { recursive: true, force: true }));
  t.equal(fs.statSync(closed).mode & 0o777, 0o700);
  const installed = path.join(embeddedBinDirectory(), '..');
  const native = path.join(closed, 'native');
  fs.cpSync(installed, native, { recursive: true, verbatimSymlinks: true });

  const server = await startPostgresServer({ binDirectory: path.join(native, 'bin') });
  t.teardown(server.remove);
  t.notOk(server.binDirectory.startsWith(closed), 'runs a copy outside of the folder');
  const client = new pg.Client({ connectionString: server.url });
  await client.connect();
  t.strictSame((await client.query('select 1 as one')).rows, [{ one: 1 }]);
  await client.end();
});
