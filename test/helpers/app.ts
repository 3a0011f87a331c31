import fs from 'node:fs';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import type { FastifyInstance, FastifyPluginAsync } from 'fastify';
import { buildApp } from '../../src/app.ts';
import { type Config, readConfig } from '../../src/config/config.ts';
import { createDependencies, type Dependencies } from '../../src/dependencies.ts';
import { createLogger } from '../../src/observability/logger.ts';
import { type Answer, type Ask, ask } from './http-client.ts';
import { createTestDatabase, type TestDatabase } from './postgres.ts';
import { registerSecret, testAdminToken, testEncryptionKeys } from './secrets.ts';

export interface TestApp {
  /** `http://127.0.0.1:<port>` */
  readonly origin: string;
  readonly port: number;
  readonly app: FastifyInstance;
  readonly config: Config;
  readonly dependencies: Dependencies;
  /** Sets the time of the service's clock. */
  setNow(instant: string): void;
  /** Lines that the service has logged. */
  readonly log: readonly Readonly<Record<string, unknown>>[];
  /** Sends a request with the operator token. `token` replaces it; null sends no token. */
  call(path: string, options?: Call): Promise<Answer>;
  putEnvironment(id: string, plan?: 'free' | 'pro' | 'enterprise'): Promise<void>;
  makeKey(environmentId: string, scopes: readonly string[], expiresAt?: string): Promise<TestKey>;
  ingest(
    environmentId: string,
    date: string,
    csv: Ask['body'],
    headers?: Ask['headers'],
  ): Promise<Answer>;
  download(environmentId: string, aggregation: string, headers?: Ask['headers']): Promise<Answer>;
}

export interface Call extends Ask {
  readonly token?: string | null;
  /** Value that is sent as JSON. */
  readonly json?: unknown;
}

export interface TestKey {
  readonly id: string;
  readonly token: string;
}

interface TestWithTeardown {
  teardown(handler: () => Promise<void>): void;
}

interface TestAppOptions {
  /** Default: a new database of the test. */
  readonly databaseUrl?: string;
  readonly now?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Routes in addition to those of the service. */
  readonly plugin?: FastifyPluginAsync;
  /** Can replace dependencies before the app is built. */
  readonly adjust?: (dependencies: Dependencies) => Dependencies;
}

/** Time of the service's clock: the day of the example in docs/file-format.md. */
export const testNow = '2026-03-02T10:00:00.000Z';

/** Starts the whole service in this process on a free port, with a new database. */
export async function startTestApp(
  t: TestWithTeardown,
  options: TestAppOptions = {},
): Promise<TestApp & { database: TestDatabase }> {
  const database = await createTestDatabase(t);
  return {
    ...(await startApp(t, { ...options, databaseUrl: options.databaseUrl ?? database.url })),
    database,
  };
}

/** Starts the whole service on a given database. */
export async function startApp(
  t: TestWithTeardown,
  options: TestAppOptions & { databaseUrl: string },
): Promise<TestApp> {
  const config = readConfig({
    DATABASE_URL: options.databaseUrl,
    ADMIN_TOKEN: testAdminToken,
    ENCRYPTION_KEYS: testEncryptionKeys.first,
    LOG_LEVEL: 'info',
    PORT: '0',
    // Tests make many requests. Tests of the limits set them.
    RATE_LIMIT_PER_CALLER: '0',
    RATE_LIMIT_FAILED_LOGINS: '0',
    ...options.env,
  });
  const log: Record<string, unknown>[] = [];
  let now = new Date(options.now ?? testNow);
  const logger = createLogger(config, {
    write: line => {
      log.push(JSON.parse(line));
      // `test/run.ts` searches this directory for secrets.
      const directory = process.env['TEST_LOG_DIRECTORY'];
      if (directory !== undefined)
        fs.appendFileSync(path.join(directory, `service-${process.pid}`), line);
    },
  });
  const made = createDependencies(config, logger, () => now);
  const dependencies = options.adjust?.(made) ?? made;
  const app = await buildApp(dependencies);
  if (options.plugin !== undefined) await app.register(options.plugin);
  t.teardown(async () => {
    await app.close();
    await dependencies.close();
  });
  await app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = app.server.address() as AddressInfo;
  const origin = `http://127.0.0.1:${port}`;

  const call: TestApp['call'] = (path, { token = testAdminToken, json, ...rest } = {}) =>
    ask(new URL(path, origin).href, {
      ...rest,
      headers: {
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(json === undefined ? {} : { 'content-type': 'application/json' }),
        ...rest.headers,
      },
      body: json === undefined ? rest.body : JSON.stringify(json),
    });

  return {
    origin,
    port,
    app,
    config,
    dependencies,
    log,
    call,
    setNow: instant => {
      now = new Date(instant);
    },
    async putEnvironment(id, plan = 'enterprise') {
      const answer = await call(`/v1/environments/${id}`, {
        method: 'PUT',
        json: { name: id, plan },
      });
      if (answer.status !== 201 && answer.status !== 200) throw new Error(answer.text);
    },
    async makeKey(environmentId, scopes, expiresAt) {
      const answer = await call(`/v1/environments/${environmentId}/api-keys`, {
        method: 'POST',
        json: { name: 'test', scopes, ...(expiresAt === undefined ? {} : { expiresAt }) },
      });
      if (answer.status !== 201) throw new Error(answer.text);
      return { id: answer.json.id, token: registerSecret(answer.json.key) };
    },
    ingest: (environmentId, date, csv, headers) =>
      call(`/v1/environments/${environmentId}/snapshots/${date}`, {
        method: 'PUT',
        headers: { 'content-type': 'text/csv', ...headers },
        body: csv,
      }),
    download: (environmentId, aggregation, headers) =>
      call(`/v1/environments/${environmentId}/exports/${aggregation}.csv`, {
        ...(headers && { headers }),
      }),
  };
}
