import { randomBytes } from 'node:crypto';
import { buildApp } from '../app.ts';
import { readConfig } from '../config.ts';
import { createDependencies } from '../dependencies.ts';
import { createLogger } from '../log.ts';

export interface RunningService {
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  readonly close: () => Promise<void>;
}

export interface ServiceOptions {
  readonly databaseUrl: string;
  /** 0 for any free one. */
  readonly port: number;
  readonly operatorToken: string;
  /** `host:port` of the embedded bucket, which would be refused as a private address otherwise. */
  readonly bucketHost: string;
  /** For rendered parts of files; made when needed. */
  readonly partDirectory: string;
}

/** Downloads under way may end, but nobody waits long for a demo to stop. */
const stopTimeoutMs = 2_000;

/** The service as `npm start` runs it, in this process. Logs only what goes wrong. */
export async function startService(options: ServiceOptions): Promise<RunningService> {
  const config = readConfig({
    DATABASE_URL: options.databaseUrl,
    PORT: String(options.port),
    ADMIN_TOKEN: options.operatorToken,
    ENCRYPTION_KEYS: `demo:${randomBytes(32).toString('base64')}`,
    S3_ENDPOINT_ALLOWLIST: options.bucketHost,
    PART_STORE_DIR: options.partDirectory,
    LOG_LEVEL: 'error',
  });
  const dependencies = createDependencies(config, createLogger(config));
  const app = await buildApp(dependencies);
  const close = async () => {
    dependencies.isStopping = true;
    const cutOff = setTimeout(() => app.server.closeAllConnections(), stopTimeoutMs);
    await app.close();
    clearTimeout(cutOff);
    await dependencies.close();
  };
  try {
    return { url: await app.listen({ host: config.host, port: config.port }), close };
  } catch (error) {
    await close();
    throw error;
  }
}
