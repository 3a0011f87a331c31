import { randomBytes } from 'node:crypto';
import type { FastifyPluginAsync } from 'fastify';
import { buildApp } from '../src/app.ts';
import { readConfig } from '../src/config/config.ts';
import { createDependencies, type Dependencies } from '../src/dependencies.ts';
import { createLogger } from '../src/observability/logger.ts';
import { startWorker } from '../src/worker.ts';

export interface RunningService {
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  /**
   * Database and job queue, for actions without an HTTP route: date configs back and start a tick.
   */
  readonly db: Dependencies['db'];
  readonly jobs: Dependencies['jobs'];
  readonly close: () => Promise<void>;
}

export interface ServiceOptions {
  readonly databaseUrl: string;
  /** 0 selects a free port. */
  readonly port: number;
  readonly operatorToken: string;
  /** `host:port` of the embedded S3 endpoint. Its private address must be in the allow-list. */
  readonly storageHost: string;
  /** Variables of the identity provider. */
  readonly env: Readonly<Record<string, string>>;
  /** Routes in addition to those of the service. */
  readonly plugin: FastifyPluginAsync;
  /** Called immediately before the service listens, to release a port that was reserved for it. */
  readonly beforeListen?: () => Promise<void>;
}

/** Longest time that downloads may continue during the shutdown. */
const stopTimeoutMs = 2_000;

/** Starts the service as `npm start` does, in this process. Logs errors only. */
export async function startService(options: ServiceOptions): Promise<RunningService> {
  const config = readConfig({
    DATABASE_URL: options.databaseUrl,
    PORT: String(options.port),
    ADMIN_TOKEN: options.operatorToken,
    ENCRYPTION_KEYS: `demo:${randomBytes(32).toString('base64')}`,
    S3_ENDPOINT_ALLOWLIST: options.storageHost,
    LOG_LEVEL: 'error',
    ...options.env,
  });
  const dependencies = createDependencies(config, createLogger(config));
  const app = await buildApp(dependencies);
  await app.register(options.plugin);
  const worker = startWorker({
    ...dependencies,
    encryptionKeys: config.encryptionKeys,
    retention: config.retention,
    chunkGraceMinutes: config.chunkGraceMinutes,
  });
  const close = async () => {
    dependencies.isStopping = true;
    const cutOff = setTimeout(() => app.server.closeAllConnections(), stopTimeoutMs);
    await Promise.all([app.close(), worker.stop()]);
    clearTimeout(cutOff);
    await dependencies.close();
  };
  try {
    await app.ready();
    await options.beforeListen?.();
    const url = await app.listen({ host: config.host, port: config.port });
    return { url, db: dependencies.db, jobs: dependencies.jobs, close };
  } catch (error) {
    await close();
    throw error;
  }
}
