import { execFile, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { createClient } from '@warehouse-export/client';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { openDuckDb } from '../helpers/read-parquet.ts';
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
    (
      await app.database.pool.query<{ version: string }>(
        `select version from snapshots where environment_id = 'acme'`,
      )
    ).rows[0]?.version;

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
    await app.putEnvironment('locked');
    const header = (await app.download('locked', 'today')).text;
    const client = await app.database.pool.connect();
    try {
      await client.query(`begin; ${lock.replace('acme', 'locked')}`);
      t.equal((await app.ingest('locked', '2026-03-01', header)).status, 409);
      await client.query('rollback');
      t.equal((await app.ingest('locked', '2026-03-01', header)).status, 201);
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

t.test('docs/scaling.md distributes every table that belongs to environments', async t => {
  const commands = read('docs/scaling.md').matchAll(
    /^select create_distributed_table\((.*?)\);$/gm,
  );
  const distributed = [...commands].map(([, text = '']) => text.replaceAll("'", '').split(', '));
  const names = distributed.map(([name]) => name ?? '');
  const { pool } = app.database;
  const { rows: tables } = await pool.query<{ name: string; key: string }>(
    `select relname as name, attname as key
     from pg_class
     join pg_index on indrelid = pg_class.oid and indisprimary
     join pg_attribute on attrelid = pg_class.oid and attnum = indkey[0]
     where relnamespace = 'public'::regnamespace and not relispartition
       and relname not like 'kysely%' and relname <> 'audit_log'
     order by relname`,
  );
  t.strictSame(
    distributed.map(([name, key]) => ({ name, key })).toSorted(byName),
    tables.toSorted(byName),
  );
  const { rows: keys } = await pool.query<{ name: string; referenced: string }>(
    `select distinct conrelid::regclass::text as name, confrelid::regclass::text as referenced
     from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace`,
  );
  for (const { name, referenced } of keys)
    t.ok(names.indexOf(referenced) < names.indexOf(name), `${referenced} before ${name}`);
});

function byName(one: { name?: string | undefined }, other: { name?: string | undefined }): number {
  return String(one.name) < String(other.name) ? -1 : 1;
}

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

t.test('loads exports into warehouses as docs/ingest.md says', async t => {
  const guide = fs.readFileSync(path.join(import.meta.dirname, '../../docs/ingest.md'), 'utf8');
  const app = await startTestApp(t, { now: '2026-03-01T23:00:00.000Z' });
  const client = createClient({ baseUrl: app.origin, token: testAdminToken });

  /** Name of the file in the commands of the guide. */
  const fileName = 'company-adoption_acme_2026-03-01.csv.gz';

  /**
   * Values that ingest programs often get wrong: null and empty, quotes, line breaks, backslashes,
   * words that look like null.
   */
  const names = [
    'Acme, Inc.',
    null,
    '',
    '"',
    'two\nlines',
    '\\N',
    'back\\slash\\',
    'NULL',
    '\\.',
    ' spaced ',
    "O'Neil",
    'Ω 株式会社',
  ];
  const quote = (text: string | null) => (text === null ? '' : `"${text.replaceAll('"', '""')}"`);
  const header =
    'Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,STARS State,Frequency,Satisfaction,Feedback Count,Segment Names,Segment IDs\n';
  const bodyOf = (companies: readonly (string | null)[]) =>
    header +
    companies
      .map(
        (name, index) =>
          `c${index + 10},${quote(name)},f1,Export,2026-01-02T03:04:05.678Z,2026-03-01T00:00:00Z,` +
          `${index % 2 === 0 ? '2026-01-03T00:00:00Z,2026-02-03T00:00:00Z,2,1,5,9007199254740993' : ',,1,0,,0'},` +
          `${index % 3 === 0 ? '"All,""Paying, EU""","s1,s2"' : '"",""'}\n`,
      )
      .join('');

  /** Returns the SQL blocks of one chapter, in order. */
  function blocksOf(title: string): string[] {
    const chapter = guide.split(/^## /m).find(text => text.startsWith(`${title}\n`));
    const blocks = [...(chapter ?? '').matchAll(/^```sql\n(.*?)^```$/gms)].map(
      ([, sql = '']) => sql,
    );
    if (blocks.length === 0) throw new Error(`the guide has no SQL for ${title}`);
    return blocks;
  }

  async function exportTo(t: Tap, companies: readonly (string | null)[]): Promise<string> {
    await app.putEnvironment('acme');
    const environmentId = 'acme';
    const body = bodyOf(companies);
    await client.uploadSnapshot({ environmentId, date: '2026-03-01', body });
    const file = await client.downloadExport({
      environmentId,
      aggregation: 'today',
      format: 'csv.gz',
    });
    const directory = t.testdir({});
    fs.writeFileSync(path.join(directory, fileName), await buffer(file.body));
    return directory;
  }
  type Tap = Pick<typeof t, 'testdir'>;

  /** Query that every database runs. Instants are text, so that no driver rounds them. */
  const question = `
  select company_id, company_name, date::text as date, first_seen = timestamptz '2026-01-02 03:04:05.678+00' as seen_right,
    first_used is null as unused, stars_state, satisfaction, feedback_count::text as feedback_count, segment_names, segment_ids
  from company_adoption order by company_id`;

  const expectedRows = (companies: readonly (string | null)[]) =>
    companies.map((name, index) => ({
      company_id: `c${index + 10}`,
      company_name: name,
      date: '2026-03-01',
      seen_right: true,
      unused: index % 2 !== 0,
      stars_state: index % 2 === 0 ? 2 : 1,
      satisfaction: index % 2 === 0 ? 5 : null,
      feedback_count: index % 2 === 0 ? '9007199254740993' : '0',
      segment_names: index % 3 === 0 ? 'All,"Paying, EU"' : '',
      segment_ids: index % 3 === 0 ? 's1,s2' : '',
    }));

  const segments = [
    { segment_id: 's1', companies: '4' },
    { segment_id: 's2', companies: '4' },
  ];

  /**
   * Does what psql does for a line that starts with \copy: sends the output of a program to COPY FROM
   * STDIN.
   */
  async function runAsPsql(
    client: pg.Client,
    block: string,
    directory: string,
  ): Promise<Record<string, unknown>[]> {
    let rows: Record<string, unknown>[] = [];
    for (const piece of block.split(/^(?=\\copy)|(?<=^\\copy.*)\n/m)) {
      const copy = /^\\copy (\S+) from program '([^']+)' (with .+)$/.exec(piece);
      if (copy === null) {
        const result: pg.QueryResult | pg.QueryResult[] = await client.query(piece);
        rows = Array.isArray(result) ? [] : result.rows;
        continue;
      }
      const [, table, program = '', options] = copy;
      const { stdout } = await promisify(execFile)('sh', ['-c', program], {
        cwd: directory,
        encoding: 'buffer',
      });
      await pipeline(
        Readable.from([stdout]),
        client.query(copyFrom(`copy ${table} from stdin ${options}`)),
      );
    }
    return rows;
  }

  const psqlVersion = spawnSync('psql', ['--version'], { encoding: 'utf8' }).stdout ?? '';
  const noPsql = psqlVersion === '' && 'psql is not installed';

  t.test('loads a name with a line that ends copies of older psql', { skip: noPsql }, async t => {
    const hostile = ['one\n\\.\ntwo', '\n\\.\n\\.\n', '\\.', null, 'plain'];
    const directory = await exportTo(t, hostile);
    const [createTable = '', load = '', , marked = ''] = blocksOf('PostgreSQL');
    const client = new pg.Client({ connectionString: app.database.url });
    await client.connect();
    t.teardown(() => client.end());
    await client.query('create schema dots; set search_path = dots');
    await client.query(createTable);
    const psql = (block: string) =>
      promisify(execFile)(
        'psql',
        ['-qX', '-v', 'ON_ERROR_STOP=1', '-f', write(block), app.database.url],
        {
          cwd: directory,
          env: { ...process.env, PGOPTIONS: '-c search_path=dots' },
        },
      );
    const write = (block: string) => {
      const file = path.join(directory, 'block.sql');
      fs.writeFileSync(file, block);
      return file;
    };
    await psql(marked);
    t.strictSame((await client.query(question)).rows, expectedRows(hostile));
    const isOld = Number(/ (\d+)/.exec(psqlVersion)?.[1]) < 18;
    if (isOld) await t.rejects(psql(load), 'the plain form fails, as the guide says');
  });

  t.test(
    'keeps types, null and empty strings with the PostgreSQL commands of the guide',
    async t => {
      const directory = await exportTo(t, names);
      const [createTable = '', load = '', askSegments = '', _marked, ...rest] =
        blocksOf('PostgreSQL');
      t.same(rest, [], 'the test runs every block');
      const client = new pg.Client({ connectionString: app.database.url });
      await client.connect();
      t.teardown(() => client.end());
      await client.query('create schema warehouse; set search_path = warehouse');

      await runAsPsql(client, createTable, directory);
      await runAsPsql(client, load, directory);
      t.strictSame((await client.query(question)).rows, expectedRows(names));
      t.strictSame(
        (await runAsPsql(client, askSegments, directory)).map(row => ({ ...row })),
        segments,
      );

      const fewer = await exportTo(t, names.slice(0, 3));
      await runAsPsql(client, load, fewer);
      t.strictSame(
        (await client.query(question)).rows,
        expectedRows(names.slice(0, 3)),
        'the day was replaced',
      );
    },
  );

  t.test('keeps types, null and empty strings with the DuckDB commands of the guide', async t => {
    const directory = await exportTo(t, names);
    const [createTable = '', load = '', askSegments = '', ...rest] = blocksOf('DuckDB');
    t.same(rest, [], 'the test runs every block');
    const { connection, close } = await openDuckDb();
    t.teardown(close);
    const ask = async (sql: string) => (await connection.runAndReadAll(sql)).getRowObjectsJson();

    // DuckDB looks for a file name without a folder in the working directory, as for a reader of the
    // guide.
    await connection.run(`set file_search_path = '${directory}'`);
    await connection.run(createTable);
    await connection.run(load);
    t.strictSame(await ask(question), expectedRows(names));
    t.strictSame(await ask(askSegments), segments);

    const fewer = await exportTo(t, names.slice(0, 3));
    await connection.run(`set file_search_path = '${fewer}'`);
    await connection.run(load);
    t.strictSame(await ask(question), expectedRows(names.slice(0, 3)), 'the day was replaced');
  });
});
