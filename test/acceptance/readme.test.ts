import { execFile } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { testAdminToken } from '../helpers/secrets.ts';

const root = path.join(import.meta.dirname, '../..');
const read = (file: string) => fs.readFileSync(path.join(root, file), 'utf8');
const readme = read('README.md');
const sqlGuide = read('docs/ingest-by-sql.md');
const gettingStarted = read('docs/getting-started.md');
const app = await startTestApp(t, { now: '2026-03-01T10:00:00.000Z' });

const rows = `c1,"Acme, Inc.",Export,f1,2026-03-01,2025-11-01T09:00:00.000Z,2026-02-28T12:30:00.000Z,2025-12-01T00:00:00.000Z,2026-02-28T12:30:00.000Z,retained,3,weekly,2,satisfied,4,7,"All,""Paying, EU""","s1,s2"
c2,,Export,f1,2026-03-01,2026-01-15T00:00:00.000Z,2026-01-15T00:00:00.000Z,,,never,1,never,0,not rated,,0,"",""
`;

t.test('exports the snapshot that docs/ingest-by-sql.md writes, and replaces it', async t => {
  await app.putEnvironment('acme');
  const [partition = '', load = '', ...rest] = [...sqlGuide.matchAll(/^```sql\n(.*?)^```$/gms)].map(
    ([, sql = '']) => sql,
  );
  t.same(rest, [], 'the test runs every block');
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
  t.not(await version(), before, 'the registry has a new version of the day');
});

t.test(
  'refuses an ingest over HTTP while the transaction of docs/ingest-by-sql.md runs',
  async t => {
    const sql = [...sqlGuide.matchAll(/^```sql\n(.*?)^```$/gms)].at(-1)?.[1] ?? '';
    const lock = /select pg_advisory_xact_lock.*;/.exec(sql)?.[0] ?? '';
    const client = await app.database.pool.connect();
    try {
      await client.query(`begin; ${lock}`);
      const header = (await app.download('acme', 'today')).text;
      t.equal((await app.ingest('acme', '2026-03-01', header)).status, 409);
      await client.query('rollback');
      t.equal((await app.ingest('acme', '2026-03-01', header)).status, 200);
    } finally {
      client.release();
    }
  },
);

t.test('makes each curl command of the guide fail on an error answer', async t => {
  const blocks = [...gettingStarted.matchAll(/^```sh\n(.*?)^```$/gms)].map(
    ([, block = '']) => block,
  );
  const commands = blocks.flatMap(block => block.match(/^curl .*(?:\\\n.*)*/gm) ?? []);
  t.ok(commands.length >= 6);
  t.match(readme, /getting-started\.md/);
  for (const command of commands) t.match(command, /^curl --fail-with-body /);

  const download = commands.find(command => command.includes('exports/today.csv')) ?? '';
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-readme-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  await app.putEnvironment('acme');
  const run = (token: string) =>
    new Promise<unknown>(resolve => {
      const env = {
        PATH: process.env['PATH'],
        ADMIN_TOKEN: token,
        api: `${app.origin}/v1/environments/acme`,
      };
      execFile('bash', ['-c', download], { cwd: directory, env }, error =>
        resolve(error?.code ?? 0),
      );
    });
  t.equal(await run(testAdminToken), 0);
  t.equal(await run('wrong-token-wrong-token-wrong-token'), 22);
});

t.test('the README says that warnings of npm on Node 20 are harmless', async t => {
  t.match(readme, /Node 20, `npm ci` prints .*`EBADENGINE` warnings\. They are harmless/);
});

t.test('the table of the README names exactly the required variables', async t => {
  const example = read('.env.example');
  const names = [...example.matchAll(/^([A-Z][A-Z0-9_]+)=/gm)].map(([, name]) => name);
  const table = readme.split('| variable | meaning |')[1]?.split('\n\n')[0] ?? '';
  const documented = [...table.matchAll(/^\| (.+?) \|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`([A-Z_0-9]+)`/g)].map(([, name]) => name),
  );
  t.same(documented.sort(), names.sort());
});

t.test('docs/security.md names only test files that exist', async t => {
  const page = read('docs/security.md');
  const named = [
    ...new Set([...page.matchAll(/`(test\/[\w./-]+\.ts)`/g)].map(([, file = '']) => file)),
  ];
  t.ok(named.length > 20);
  t.strictSame(
    named.filter(file => !fs.existsSync(path.join(root, file))),
    [],
  );
});

t.test('every relative link of the documents leads to a file and a heading', async t => {
  const pages = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md'].concat(
    fs.globSync('docs/**/*.md', { cwd: root }),
  );
  const broken: string[] = [];
  for (const page of pages) {
    for (const [, target = ''] of read(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file = '', anchor] = target.split('#');
      const linked = file === '' ? page : path.join(path.dirname(page), file);
      if (!fs.existsSync(path.join(root, linked))) broken.push(`${page}: ${target}`);
      else if (anchor !== undefined && !anchorsOf(read(linked)).includes(anchor)) {
        broken.push(`${page}: ${target}`);
      }
    }
  }
  t.strictSame(broken, []);
});

/** Returns the anchors that Markdown renderers give to the headings of a page. */
function anchorsOf(markdown: string): string[] {
  return [...markdown.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}
