import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { startTestApp } from '../helpers/app.ts';

const readme = fs.readFileSync(path.join(import.meta.dirname, '../../README.md'), 'utf8');
const app = await startTestApp(t, { now: '2026-03-01T10:00:00.000Z' });

const rows = `c1,"Acme, Inc.",Export,f1,2026-03-01,2025-11-01T09:00:00.000Z,2026-02-28T12:30:00.000Z,2025-12-01T00:00:00.000Z,2026-02-28T12:30:00.000Z,retained,3,weekly,2,satisfied,4,7,"All,""Paying, EU""","s1,s2"
c2,,Export,f1,2026-03-01,2026-01-15T00:00:00.000Z,2026-01-15T00:00:00.000Z,,,never,1,never,0,not rated,,0,"",""
`;

t.test('what the README writes by SQL is exported, and replaces what was there', async t => {
  await app.putEnvironment('acme');
  const [partition = '', load = '', ...rest] = [...readme.matchAll(/^```sql\n(.*?)^```$/gms)].map(
    ([, sql = '']) => sql,
  );
  t.same(rest, [], 'every block is tried');
  const version = async () =>
    (await app.database.pool.query<{ version: string }>('select version from snapshots')).rows[0]
      ?.version;

  await app.database.pool.query(partition);
  await app.database.pool.query(load);
  const first = await app.download('acme', 'today');
  t.equal(first.text.slice(first.text.indexOf('\n') + 1), rows);
  t.equal(first.headers['x-total-rows'], '2');
  const before = await version();

  await app.database.pool.query(load);
  t.equal((await app.download('acme', 'today')).text, first.text);
  t.not(await version(), before, 'the registry tells that the day has changed');
});

t.test(
  'while the README’s transaction runs, a load of that snapshot over HTTP is a conflict',
  async t => {
    const sql = [...readme.matchAll(/^```sql\n(.*?)^```$/gms)].at(-1)?.[1] ?? '';
    const lock = /select pg_advisory_xact_lock.*;/.exec(sql)?.[0] ?? '';
    const client = await app.database.pool.connect();
    try {
      await client.query(`begin; ${lock}`);
      const header = (await app.download('acme', 'today')).text;
      t.equal((await app.load('acme', '2026-03-01', header)).status, 409);
      await client.query('rollback');
      t.equal((await app.load('acme', '2026-03-01', header)).status, 200);
    } finally {
      client.release();
    }
  },
);

t.test('the README table names exactly the required variables', async t => {
  const example = fs.readFileSync(path.join(import.meta.dirname, '../../.env.example'), 'utf8');
  const names = [...example.matchAll(/^([A-Z][A-Z0-9_]+)=/gm)].map(([, name]) => name);
  const table = readme.split('| variable | meaning |')[1]?.split('\n\n')[0] ?? '';
  const documented = [...table.matchAll(/^\| (.+?) \|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`([A-Z_0-9]+)`/g)].map(([, name]) => name),
  );
  t.same(documented.sort(), names.sort());
});

t.test('docs/security.md names tests that are there', async t => {
  const root = path.join(import.meta.dirname, '../..');
  const page = fs.readFileSync(path.join(root, 'docs/security.md'), 'utf8');
  const named = [
    ...new Set([...page.matchAll(/`(test\/[\w./-]+\.ts)`/g)].map(([, file = '']) => file)),
  ];
  t.ok(named.length > 20);
  t.strictSame(
    named.filter(file => !fs.existsSync(path.join(root, file))),
    [],
  );
});
