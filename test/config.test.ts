import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { ConfigError, readConfig, readDatabaseUrl } from '../src/config.ts';
import { testAdminToken, testEncryptionKeys } from './helpers/secrets.ts';

const least = {
  DATABASE_URL: 'postgres://user:password@db.internal:5432/exports',
  ADMIN_TOKEN: testAdminToken,
  ENCRYPTION_KEYS: testEncryptionKeys.first,
};

const keyBytes = (entry: string) => Buffer.from(entry.slice(entry.indexOf(':') + 1), 'base64');

t.test('what is required is enough; the rest has its default', async t => {
  const { encryptionKeys, adminToken, ...rest } = readConfig(least);
  t.strictSame(rest, {
    databaseUrl: least.DATABASE_URL,
    snapshotDatabaseUrl: least.DATABASE_URL,
    host: '127.0.0.1',
    port: 3000,
    processRole: 'all',
    publicUrl: null,
    s3EndpointAllowlist: [],
    logLevel: 'info',
    partStore: { directory: path.join(tmpdir(), 'warehouse-export-parts'), maxBytes: 2048 * 1024 * 1024 },
    drainMs: 5_000,
  });
  t.ok(adminToken === testAdminToken);
  t.equal(encryptionKeys.length, 1);
  t.equal(encryptionKeys[0].id, '2026a');
  t.ok(encryptionKeys[0].key.equals(keyBytes(testEncryptionKeys.first)));
  t.equal(encryptionKeys[0].key.length, 32);
});

t.test('every variable is read', async t => {
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
    PART_STORE_DIR: '/var/cache/parts',
    PART_STORE_MB: '10',
    DRAIN_SECONDS: '20',
  });
  t.match(config, {
    snapshotDatabaseUrl: 'postgresql://replica/exports',
    host: '::',
    port: 0,
    processRole: 'worker',
    publicUrl: 'https://exports.example.com',
    logLevel: 'debug',
    partStore: { directory: '/var/cache/parts', maxBytes: 10 * 1024 * 1024 },
    drainMs: 20_000,
  });
  t.equal(readConfig({ ...least, PART_STORE_MB: '0' }).partStore, null);
  t.strictSame(config.s3EndpointAllowlist, ['minio.internal', '10.0.0.0/8', '127.0.0.1:9000']);
  t.strictSame(
    config.encryptionKeys.map(({ id }) => id),
    ['2025b', '2026a'],
    'the first is the one that encrypts',
  );
});

t.test('outer spaces are dropped, and a blank variable counts as absent', async t => {
  t.match(readConfig({ ...least, HOST: ' 0.0.0.0 ', PORT: ' ' }), { host: '0.0.0.0', port: 3000 });
  t.throws(() => readConfig({ ...least, DATABASE_URL: '  ' }), { message: 'DATABASE_URL is required' });
});

t.test('the configuration cannot be changed', async t => {
  t.ok(Object.isFrozen(readConfig(least)));
});

t.test('a migration needs no more than the database', async t => {
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
  ['PART_STORE_DIR', 'relative/parts'],
  ['PART_STORE_MB', '-1'],
  ['PART_STORE_MB', '1.5'],
  ['DRAIN_SECONDS', '21'],
  ['DRAIN_SECONDS', '0.5'],
];

t.test(
  'a variable that is missing or malformed is named in one line that does not show its value',
  async t => {
    for (const [name, value] of bad) {
      const label = `${name}=${value?.startsWith('Sp0') || name === 'ENCRYPTION_KEYS' ? '…' : value}`;
      try {
        readConfig({ ...least, [name]: value });
        t.fail(`${label} was accepted`);
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
        t.ok(error.message.startsWith(`${name} `), label);
        t.notMatch(error.message, '\n');
        t.notOk(value !== undefined && value !== '' && error.message.includes(value), 'shows the value');
      }
    }
  },
);
