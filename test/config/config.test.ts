import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { parse } from 'yaml';
import { ConfigError, readConfig, readDatabaseUrl } from '../../src/config/config.ts';
import { configurationPage, envExample } from '../../src/config/documents.ts';
import { variables } from '../../src/config/variables.ts';
import { testAdminToken, testEncryptionKeys } from '../helpers/secrets.ts';

const least = {
  DATABASE_URL: 'postgres://user:password@db.internal:5432/exports',
  ADMIN_TOKEN: testAdminToken,
  ENCRYPTION_KEYS: testEncryptionKeys.first,
};

const provider = {
  JWT_ISSUER: 'https://login.example.com/',
  JWT_AUDIENCE: 'exports',
  JWT_JWKS_URL: 'https://login.example.com/keys?v=1',
};

const keyBytes = (entry: string) => Buffer.from(entry.slice(entry.indexOf(':') + 1), 'base64');

t.test('reads the required variables and uses the default of each other variable', async t => {
  const { encryptionKeys, adminToken, ...rest } = readConfig(least);
  t.strictSame(rest, {
    databaseUrl: least.DATABASE_URL,
    snapshotDatabaseUrl: least.DATABASE_URL,
    host: '127.0.0.1',
    port: 3000,
    processRole: 'all',
    publicUrl: null,
    s3EndpointAllowlist: [],
    roles: null,
    logLevel: 'info',
    tracing: false,
    chunkGraceMinutes: 60,
    drainMs: 5_000,
    jwt: null,
    corsOrigins: [],
    rateLimitPerCaller: 1200,
    rateLimitFailedLogins: 30,
    trustProxy: false,
    ingest: { minBytesPerSecond: 1024, averageMs: 60_000, maxMs: 3_600_000 },
    retention: { snapshots: 'needed', runDays: 90, auditDays: 400 },
  });
  t.ok(adminToken === testAdminToken);
  t.equal(encryptionKeys.length, 1);
  t.equal(encryptionKeys[0].id, '2026a');
  t.ok(encryptionKeys[0].key.equals(keyBytes(testEncryptionKeys.first)));
  t.equal(encryptionKeys[0].key.length, 32);
});

t.test('enables tracing if a standard variable of OpenTelemetry is set', async t => {
  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318' };
  for (const [env, wanted] of [
    [{}, false],
    [endpoint, true],
    [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://127.0.0.1:4318/v1/traces' }, true],
    [{ OTEL_TRACES_EXPORTER: 'console' }, true],
    [{ OTEL_SERVICE_NAME: 'x' }, false],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: ' ' }, false],
    [{ ...endpoint, OTEL_TRACES_EXPORTER: 'none' }, false],
    [{ ...endpoint, OTEL_SDK_DISABLED: 'true' }, false],
    [{ ...endpoint, OTEL_SDK_DISABLED: 'TRUE' }, false],
    [{ ...endpoint, OTEL_SDK_DISABLED: 'false' }, true],
  ] as const) {
    t.equal(readConfig({ ...least, ...env }).tracing, wanted, JSON.stringify(env));
  }
});

t.test('reads every environment variable', async t => {
  const config = readConfig({
    ...least,
    SNAPSHOT_DATABASE_URL: 'postgresql://replica/exports',
    HOST: '::',
    PORT: '0',
    ENCRYPTION_KEYS: `${testEncryptionKeys.second} , ${testEncryptionKeys.first}`,
    PROCESS_ROLE: 'worker',
    PUBLIC_URL: 'https://Exports.example.com:443/',
    S3_ENDPOINT_ALLOWLIST: 'minio.internal, 10.0.0.0/8,,127.0.0.1:9000 ',
    LOG_LEVEL: 'debug',
    CHUNK_GRACE_MINUTES: '1',
    SHUTDOWN_DRAIN_SECONDS: '20',
    ...provider,
    CORS_ORIGINS: 'https://App.example.com:443/, http://localhost:5173',
    RATE_LIMIT_PER_CALLER: '0',
    RATE_LIMIT_FAILED_LOGINS: '5',
    TRUST_PROXY: '2',
    INGEST_MIN_BYTES_PER_SECOND: '1',
    INGEST_MAX_SECONDS: '60',
    SNAPSHOT_RETENTION: 'all',
    RUN_RETENTION_DAYS: '1',
    AUDIT_RETENTION_DAYS: '99999',
  });
  t.match(config, {
    snapshotDatabaseUrl: 'postgresql://replica/exports',
    host: '::',
    port: 0,
    processRole: 'worker',
    publicUrl: 'https://exports.example.com',
    logLevel: 'debug',
    chunkGraceMinutes: 1,
    drainMs: 20_000,
    jwt: {
      issuer: 'https://login.example.com/',
      audience: 'exports',
      jwksUrl: new URL('https://login.example.com/keys?v=1'),
      environmentsClaim: 'environments',
      scopesClaim: 'scope',
    },
    rateLimitPerCaller: 0,
    rateLimitFailedLogins: 5,
    trustProxy: 2,
    ingest: { minBytesPerSecond: 1, maxMs: 60_000 },
    retention: { snapshots: 'all', runDays: 1, auditDays: 99_999 },
  });
  t.strictSame(config.corsOrigins, ['https://app.example.com', 'http://localhost:5173']);
  t.strictSame(config.s3EndpointAllowlist, ['minio.internal', '10.0.0.0/8', '127.0.0.1:9000']);
  t.strictSame(
    config.encryptionKeys.map(({ id }) => id),
    ['2025b', '2026a'],
    'the first key encrypts',
  );
});

t.test('drops outer spaces and treats a blank variable as absent', async t => {
  t.match(readConfig({ ...least, HOST: ' 0.0.0.0 ', PORT: ' ' }), { host: '0.0.0.0', port: 3000 });
  t.throws(() => readConfig({ ...least, DATABASE_URL: '  ' }), {
    message: 'DATABASE_URL is required',
  });
});

t.test('requires all three variables of an identity provider or none', async t => {
  const { JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL } = provider;
  for (const [some, message] of [
    [{ JWT_ISSUER }, 'JWT_AUDIENCE is required with JWT_ISSUER'],
    [{ JWT_ISSUER, JWT_AUDIENCE }, 'JWT_JWKS_URL is required with JWT_ISSUER and JWT_AUDIENCE'],
    [{ JWT_JWKS_URL }, 'JWT_ISSUER is required with JWT_JWKS_URL'],
  ] as const) {
    t.throws(() => readConfig({ ...least, ...some }), { message });
  }
  const claims = {
    JWT_ENVIRONMENTS_CLAIM: 'https://example.com/tenants',
    JWT_SCOPES_CLAIM: 'permissions',
  };
  t.match(readConfig({ ...least, ...provider, ...claims }).jwt, {
    environmentsClaim: 'https://example.com/tenants',
    scopesClaim: 'permissions',
  });
  for (const url of ['http://127.0.0.1:8080/keys', 'http://localhost/keys', 'http://[::1]/keys']) {
    t.equal(readConfig({ ...least, ...provider, JWT_JWKS_URL: url }).jwt?.jwksUrl.href, url);
  }
});

t.test('reads the trusted proxies as false, a number or a list', async t => {
  const trusted = (value: string) => readConfig({ ...least, TRUST_PROXY: value }).trustProxy;
  t.equal(trusted('false'), false);
  t.equal(trusted('1'), 1);
  t.strictSame(trusted('10.0.0.0/8, ::1,192.0.2.1'), ['10.0.0.0/8', '::1', '192.0.2.1']);
});

t.test('freezes the configuration', async t => {
  t.ok(Object.isFrozen(readConfig(least)));
});

t.test('reads only the database URL for a migration', async t => {
  t.equal(readDatabaseUrl({ DATABASE_URL: least.DATABASE_URL }), least.DATABASE_URL);
  t.throws(() => readDatabaseUrl({}), { message: 'DATABASE_URL is required' });
});

const bad: readonly [name: keyof typeof least | string, value: string | undefined][] = [
  ['DATABASE_URL', undefined],
  ['DATABASE_URL', 'db.internal:5432/exports'],
  ['DATABASE_URL', 'mysql://db.internal/exports'],
  ['DATABASE_URL', 'postgres://db.internal:99999/exports'],
  ['DATABASE_URL', 'postgres://user:%e0%a4@db.internal/exports'],
  ['DATABASE_URL', 'postgresql://'],
  ['SNAPSHOT_DATABASE_URL', 'https://db.internal/exports'],
  ['HOST', 'http://0.0.0.0'],
  ['HOST', '0.0.0.0:3000'],
  ['HOST', 'my host'],
  ['PORT', '65536'],
  ['PORT', '-1'],
  ['PORT', '3000.5'],
  ['PORT', '0x50'],
  ['PORT', 'http'],
  ['ADMIN_TOKEN', undefined],
  ['ADMIN_TOKEN', 'Sp0-31-characters-are-too-few-x'],
  ['ADMIN_TOKEN', 'Sp0 a token with spaces does not fit a header'],
  ['ADMIN_TOKEN', 'Sp0-größer-als-zweiunddreißig-Zeichen-lang'],
  ['ENCRYPTION_KEYS', undefined],
  ['ENCRYPTION_KEYS', 'q83vEjRWeJq83v7cuphUMhD+3LqYdlQyEBI0VniavN4='],
  ['ENCRYPTION_KEYS', 'a:c2hvcnQ='],
  ['ENCRYPTION_KEYS', `${testEncryptionKeys.first},`],
  ['ENCRYPTION_KEYS', `${testEncryptionKeys.first},${testEncryptionKeys.first}`],
  ['ENCRYPTION_KEYS', testEncryptionKeys.first.replace('2026a', '2026 a')],
  ['PROCESS_ROLE', 'API'],
  ['PROCESS_ROLE', 'scheduler'],
  ['PUBLIC_URL', 'adoption.example.net'],
  ['PUBLIC_URL', 'ftp://exports.example.com'],
  ['PUBLIC_URL', 'https://exports.example.com/base'],
  ['PUBLIC_URL', 'https://exports.example.com/?a=b'],
  ['PUBLIC_URL', 'https://exports.example.com/#top'],
  ['PUBLIC_URL', 'https://user:password@exports.example.com'],
  ['LOG_LEVEL', 'verbose'],
  ['CHUNK_GRACE_MINUTES', '0'],
  ['CHUNK_GRACE_MINUTES', '1.5'],
  ['CHUNK_GRACE_MINUTES', 'all'],
  ['SHUTDOWN_DRAIN_SECONDS', '21'],
  ['SHUTDOWN_DRAIN_SECONDS', '0.5'],
  ['JWT_ISSUER', 'two words'],
  ['JWT_AUDIENCE', 'exports of acme'],
  ['JWT_JWKS_URL', 'http://login.example.com/keys'],
  ['JWT_JWKS_URL', 'http://127.0.0.1.example.com/keys'],
  ['JWT_JWKS_URL', 'https://user:password@login.example.com/keys'],
  ['JWT_JWKS_URL', 'login.example.com/keys'],
  ['JWT_JWKS_URL', 'file:///etc/passwd'],
  ['JWT_ENVIRONMENTS_CLAIM', 'my claim'],
  ['JWT_SCOPES_CLAIM', 'größe'],
  ['CORS_ORIGINS', '*'],
  ['CORS_ORIGINS', 'null'],
  ['CORS_ORIGINS', 'pages.example.net'],
  ['CORS_ORIGINS', 'https://*.example.com'],
  ['CORS_ORIGINS', 'https://app.example.com/path'],
  ['RATE_LIMIT_PER_CALLER', '-1'],
  ['RATE_LIMIT_PER_CALLER', '1.5'],
  ['RATE_LIMIT_FAILED_LOGINS', 'off'],
  ['TRUST_PROXY', 'true'],
  ['TRUST_PROXY', '0'],
  ['TRUST_PROXY', '100'],
  ['TRUST_PROXY', '10.0.0.0/33'],
  ['TRUST_PROXY', '10.0.0.0/0'],
  ['TRUST_PROXY', '10.0.0.0/8/8'],
  ['TRUST_PROXY', 'proxy.internal'],
  ['TRUST_PROXY', ',,'],
  ['INGEST_MIN_BYTES_PER_SECOND', '0'],
  ['INGEST_MAX_SECONDS', '59'],
  ['INGEST_MAX_SECONDS', '86401'],
  ['SNAPSHOT_RETENTION', 'none'],
  ['RUN_RETENTION_DAYS', '0'],
  ['RUN_RETENTION_DAYS', 'ninety'],
  ['AUDIT_RETENTION_DAYS', '-400'],
];

t.test(
  'names a missing or malformed variable in one line that does not show its value',
  async t => {
    for (const [name, value] of bad) {
      const label = `${name}=${value?.startsWith('Sp0') || name === 'ENCRYPTION_KEYS' ? '…' : value}`;
      try {
        readConfig({ ...least, ...provider, [name]: value });
        t.fail(`${label} was accepted`);
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
        t.ok(error.message.startsWith(`${name} `), label);
        t.notMatch(error.message, '\n');
        t.notOk(
          value !== undefined && value !== '' && error.message.includes(value),
          'the message shows the value',
        );
      }
    }
  },
);

t.test('the generated .env.example is a configuration that lacks only secrets', async t => {
  const env = Object.fromEntries(
    [...envExample().matchAll(/^#?([A-Z][A-Z0-9_]+)=(.*)$/gm)].map(([, name = '', value]) => [
      name,
      value,
    ]),
  );
  t.throws(() => readConfig(env), { message: 'ADMIN_TOKEN is required' });
  t.throws(() => readConfig({ ...env, ADMIN_TOKEN: testAdminToken }), {
    message: 'ENCRYPTION_KEYS is required',
  });
  const { ADMIN_TOKEN, ENCRYPTION_KEYS } = least;
  t.ok(readConfig({ ...env, ADMIN_TOKEN, ENCRYPTION_KEYS }));
});

t.test(
  'the generated documents name each variable once, in lines of at most 100 columns',
  async t => {
    const page = configurationPage();
    const headings = [...page.matchAll(/^### (\w+)$/gm)].map(([, name]) => name);
    const assigned = [...envExample().matchAll(/^#?([A-Z][A-Z0-9_]+)=/gm)].map(([, name]) => name);
    t.strictSame(headings, Object.keys(variables.properties));
    t.strictSame(assigned, headings);
    for (const line of page.split('\n')) t.ok(line.length <= 100, line);
  },
);

interface ComposeService {
  readonly build?: string;
  readonly image?: string;
  readonly command?: readonly string[];
  readonly restart?: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly healthcheck?: { readonly test: readonly string[] };
  readonly volumes?: readonly string[];
  readonly ports?: readonly string[];
}

t.test('compose.yaml starts services that exist with a valid configuration', async t => {
  const root = path.join(import.meta.dirname, '../..');
  const read = (file: string) => fs.readFileSync(path.join(root, file), 'utf8');
  const text = read('compose.yaml');
  const secrets: Readonly<Record<string, string>> = {
    ADMIN_TOKEN: testAdminToken,
    ENCRYPTION_KEYS: least.ENCRYPTION_KEYS,
  };
  const names = new Set(Object.keys(variables.properties));
  const filled = text.replaceAll(/\$\{(\w+)(?::([?-])([^}]*))?\}/g, (_, name, kind, otherwise) => {
    t.ok(names.has(name), `${name} is a variable of the service`);
    return kind === '-' ? otherwise : (secrets[name] ?? '');
  });
  const document = parse(filled, { merge: true }) as {
    services: Readonly<Record<string, ComposeService>>;
    volumes: Readonly<Record<string, null>>;
  };
  const { services } = document;
  const topLevel = ['name', 'x-service', 'services', 'volumes'];
  t.strictSame(Object.keys(document), topLevel, 'only known members');
  const ends = 'service_completed_successfully';
  const known = [
    ...['build', 'image', 'restart', 'environment', 'entrypoint', 'command', 'depends_on'],
    ...['ports', 'volumes', 'stop_grace_period', 'healthcheck'],
  ];
  for (const [name, service] of Object.entries(services)) {
    const unknown = Object.keys(service).filter(member => !known.includes(member));
    t.strictSame(unknown, [], `${name} has only known members`);
    for (const [other, { condition }] of Object.entries(service.depends_on ?? {})) {
      const needed = services[other];
      if (condition === 'service_healthy') t.ok(needed?.healthcheck, `${other} has a health check`);
      else t.match({ condition, needed }, { condition: ends, needed: { restart: 'no' } }, other);
    }
    for (const volume of service.volumes ?? [])
      t.ok(Object.hasOwn(document.volumes, volume.split(':')[0] ?? ''), volume);
    if (service.build === undefined) {
      t.match(service.image, /^[\w/]+:[\w.-]+$/, `${name} has an image with a version`);
      continue;
    }
    const config = readConfig(service.environment ?? {});
    for (const variable of Object.keys(service.environment ?? {}))
      t.ok(names.has(variable), `${variable} is a variable of the service`);
    const { POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB } =
      services['postgres']?.environment ?? {};
    const url = `postgres://${POSTGRES_USER}:${POSTGRES_PASSWORD}@postgres:5432/${POSTGRES_DB}`;
    t.equal(config.databaseUrl, url);
    const [, program] = service.command ?? [];
    if (program !== undefined) t.ok(fs.existsSync(path.join(root, program)), program);
  }
  const [, port] = /PORT=(\d+)/.exec(read('Dockerfile')) ?? [];
  t.strictSame(services['api']?.ports, [`127.0.0.1:${port}:${port}`]);
  t.match(services['api']?.environment, { PROCESS_ROLE: 'api' });
  t.match(services['worker']?.environment, { PROCESS_ROLE: 'worker' });
});
