import t from 'tap';
import { importFaults } from '../scripts/import-rules.ts';
import { createTapReport } from './helpers/tap-report.ts';

const faultsOf = (path: string, text: string) =>
  importFaults({
    files: [{ path, text }],
    tables: ['environments', 'export_runs'],
    programs: ['http/write-openapi.ts'],
  });

const faulty: readonly [path: string, line: string, fault: RegExp][] = [
  ['exports/open-export.ts', "import fastify from 'fastify';", /imports fastify/],
  ['exports/open-export.ts', "import type { FastifyInstance } from 'fastify';", /imports fastify/],
  ['snapshots/schemas.ts', "import { Type } from '@fastify/type-provider-typebox';", /imports @fastify/],
  ['http/metrics.ts', "import { Counter } from 'prom-client';", /only http\/prometheus.ts know/],
  ['exports/open-export.ts', "import { trace } from '@opentelemetry/api';", /only trace.ts and/],
  ['trace.ts', "import('@opentelemetry/sdk-node')", /only start-tracing.ts know/],
  ['exports/open-export.ts', "import { sql } from 'kysely';", /imports kysely/],
  ['exports/routes.ts', "import type { Kysely } from 'kysely';", /imports kysely/],
  [
    'db/connect.ts',
    "import { readPlan } from '../environments/plans.ts';",
    /db does not depend on environments/,
  ],
  [
    'snapshots/load.ts',
    "import { dates } from '../exports/aggregations.ts';",
    /snapshots does not depend on exports/,
  ],
  [
    'destinations/check.ts',
    "import { plan } from '../environments/plans.ts';",
    /does not depend on environments/,
  ],
  [
    'exports/open-export.ts',
    "import { problem } from '../http/problem.ts';",
    /exports does not depend on http/,
  ],
  [
    'exports/open-export.ts',
    "const { run } = await import('../automatic-exports/run.ts');",
    /does not depend on/,
  ],
  ['exports/open-export.ts', "export { buildApp } from '../app.ts';", /puts the parts together/],
  ['main.ts', "import { seed } from './demo/seed.ts';", /nothing depends on the demo/],
  ['exports/open-export.ts', 'const level = process.env.LOG_LEVEL;', /reads process.env/],
  ['exports/open-export.ts', "const level = process.env['LOG_LEVEL'];", /reads process.env/],
];

const sound: readonly [path: string, line: string][] = [
  ['app.ts', "import fastify from 'fastify';"],
  ['exports/routes.ts', "import type { FastifyInstance } from 'fastify';"],
  ['environments/api-key-routes.ts', "import { problem } from '../http/problem.ts';"],
  ['db/connect.ts', "import { Kysely } from 'kysely';"],
  ['exports/select-rows.ts', "import { sql } from 'kysely';"],
  ['environments/environments.ts', "import { sql } from 'kysely';"],
  ['automatic-exports/runs.ts', "import { sql } from 'kysely';"],
  ['automatic-exports/run-export.ts', "import { openExport } from '../exports/open-export.ts';"],
  ['exports/open-export.ts', "import { notFound } from '../errors.ts';"],
  ['snapshots/staging-sql.ts', "import { sql } from 'kysely';"],
  ['http/write-openapi.ts', "import { buildApp } from '../app.ts';"],
  ['dependencies.ts', "import { createPool } from './db/connect.ts';"],
  ['db/migrate.ts', 'readDatabaseUrl(process.env);'],
];

t.test('an import against the direction of dependencies is found', async t => {
  for (const [path, text, fault] of faulty) {
    const faults = faultsOf(path, text);
    t.equal(faults.length, 1, `${path}: ${text}`);
    t.match(faults[0], fault);
  }
});

t.test('imports that the rules allow pass', async t => {
  for (const [path, text] of sound) t.strictSame(faultsOf(path, text), [], `${path}: ${text}`);
});

const tap = `TAP version 14
# Subtest: test/good.test.ts
    # Subtest: adds
        ok 1 - one
        ok 2 - bucket # SKIP no server
        1..2
    ok 1 - adds # time=1ms
    1..1
ok 1 - test/good.test.ts # time=2ms

# Subtest: test/bad.test.ts
    ok 1 - fine
    not ok 2 - broken
      ---
      diff: |
        # { total: 99, pass: 99 }
        ok 3 - not a test # SKIP never
      ...
    1..2
not ok 2 - test/bad.test.ts # time=3ms
  ---
  exitCode: 1
  ...

1..2
# { total: 4, pass: 2, fail: 1, skip: 1 }
# time=5ms
`;

t.test('the report counts as tap counts, names what was skipped and shows what failed', async t => {
  // In one piece and byte by byte, as pipes may deliver it.
  for (const chunks of [[tap], [...tap]]) {
    let printed = '';
    const report = createTapReport(text => {
      printed += text;
    });
    chunks.forEach(report.write);
    t.strictSame(report.totals(), { passed: 2, failed: 1, skipped: 1 });
    t.strictSame(report.skipped, ['test/good.test.ts > bucket: no server']);
    t.match(printed, /^ok {6}test\/good\.test\.ts/m);
    t.match(printed, /^ {4}not ok 2 - broken/m);
    t.notMatch(printed, /ok 1 - one|ok 1 - fine/);
  }
});

t.test('a run that tap did not sum up has no totals', async t => {
  const report = createTapReport(() => {});
  report.write('TAP version 14\n# Subtest: test/good.test.ts\n    ok 1 - one\n');
  t.equal(report.totals(), null);
});
