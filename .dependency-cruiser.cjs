/**
 * Which folder of `src` may import which. `npm run check` holds the code to it.
 * Imports point one way. A folder may import itself, the folders listed here and packages.
 */
const mayImport = {
  shared: [],
  config: ['shared'],
  observability: ['config', 'shared'],
  db: ['config', 'observability', 'shared'],
  http: ['config', 'db', 'observability', 'shared'],
  audit: ['db', 'http', 'shared'],
  outbound: ['config', 'observability', 'shared'],
  encryption: ['audit', 'config', 'db', 'shared'],
  destinations: ['outbound', 'encryption', 'observability', 'shared'],
  webhooks: [
    ...['destinations', 'outbound', 'encryption', 'audit', 'http', 'db'],
    ...['observability', 'config', 'shared'],
  ],
  environments: [
    'webhooks',
    'outbound',
    'encryption',
    'audit',
    'http',
    'db',
    'observability',
    'config',
    'shared',
  ],
  snapshots: ['environments', 'audit', 'http', 'db', 'observability', 'config', 'shared'],
  exports: [
    'snapshots',
    'environments',
    'audit',
    'http',
    'db',
    'observability',
    'config',
    'shared',
  ],
  retention: ['snapshots', 'audit', 'db', 'observability', 'config', 'shared'],
  'export-configs': [
    ...['destinations', 'outbound', 'encryption', 'environments', 'webhooks', 'audit'],
    ...['http', 'db', 'observability', 'config', 'shared'],
  ],
  'export-runs': [
    ...['export-configs', 'exports', 'snapshots', 'destinations', 'outbound', 'encryption'],
    ...['environments', 'webhooks', 'audit', 'http', 'db', 'observability', 'config', 'shared'],
  ],
};

const folderRules = Object.entries(mayImport).map(([folder, others]) => ({
  name: `folder-${folder}`,
  comment: `src/${folder} may import ${others.join(', ') || 'no other folder'} and packages.`,
  severity: 'error',
  from: { path: `^src/${folder}/` },
  to: { path: '^src/', pathNot: [folder, ...others].map(name => `^src/${name}/`) },
}));

/** Packages that few files may know, so that the rest does not depend on them. */
const packageRules = [
  ['prom-client', '^src/observability/prometheus\\.ts$'],
  ['hyparquet-writer', '^src/exports/parquet/(encode|schema)\\.ts$'],
  ['@opentelemetry', '^src/observability/(tracing|start-tracing)\\.ts$'],
  [
    '(@fastify/|fastify/|fastify$)',
    '^src/(http|observability|cli|environments/auth)/|routes\\.ts$|schemas\\.ts$|^src/exports/send-export\\.ts$|^src/(app|main)\\.ts$',
  ],
].map(([name, knownBy]) => ({
  name: `package-${name.replaceAll(/[^a-z-]/g, '')}`,
  comment: `Only ${knownBy} may import ${name}.`,
  severity: 'error',
  from: { path: '^src/', pathNot: knownBy },
  to: { path: `^node_modules/${name}` },
}));

module.exports = {
  forbidden: [
    ...folderRules,
    ...packageRules,
    {
      name: 'parquet-worker',
      comment: 'A worker thread loads only what converts a file: no connections, no config.',
      severity: 'error',
      from: { path: '^src/exports/parquet/worker\\.ts$' },
      to: {
        reachable: true,
        path: '^src/',
        pathNot: [
          '^src/exports/parquet/',
          '^src/exports/column-types\\.ts$',
          '^src/snapshots/columns\\.ts$',
          '^src/shared/(csv-scanner|parse-instant)\\.ts$',
        ],
      },
    },
    {
      name: 'no-cycles',
      comment: 'Files must not import each other in a circle.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'product-alone',
      comment: 'src must not import the demo, development servers, tests or the benchmark.',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(demo|dev|test|bench|scripts)/' },
    },
  ],
  options: {
    // swc reads the sources, so the warning that TypeScript 7 is not supported can be ignored.
    parser: 'swc',
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
  },
};
