import type { Socket } from 'node:net';
import type { Logger } from 'pino';
import { buildApp } from './app.ts';
import { ConfigError, readConfig } from './config/config.ts';
import {
  checkDatabase,
  describeDatabaseError,
  UnsuitableDatabaseError,
} from './db/check-database.ts';
import { findSchemaObstacle } from './db/schema-state.ts';
import { createDependencies, type Dependencies } from './dependencies.ts';
import { drain } from './http/drain.ts';
import { resetConnection } from './http/reset-connection.ts';
import { createLogDestination } from './observability/log-destination.ts';
import { createLogger } from './observability/logger.ts';
import { startTracing } from './observability/start-tracing.ts';
import { startWorker } from './worker.ts';

/** Longest time for downloads and runs to finish during shutdown. */
const stopTimeoutMs = 30_000;
/** Pause between checks of a database that was unreachable at start. */
const recheckMs = 1_000;
/** Longest wait for a slow reader of the last log lines. */
const flushTimeoutMs = 1_000;

/** Runs `read`. A malformed variable ends the process with one line that names it. */
function orExit<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}

/**
 * Exits with one line if the database can never be used, or if its URL names an unreadable
 * certificate file. An unreachable database does not prevent the start. It is checked again until
 * it answers.
 *
 * @param isFirst false for a repeated check, which logs no unreachable database
 */
async function checkDatabaseOrExit(url: string, log: Logger, isFirst = true): Promise<void> {
  try {
    await checkDatabase(url);
  } catch (error) {
    const isFinal =
      error instanceof UnsuitableDatabaseError ||
      (error instanceof Error && 'syscall' in error && error.syscall === 'open');
    if (isFinal) {
      console.error(describeDatabaseError(error));
      process.exit(1);
    }
    if (isFirst) log.warn({ err: error }, 'database unreachable at start');
    setTimeout(checkDatabaseOrExit, recheckMs, url, log, false).unref();
  }
}

/** Logs an instruction for the operator if the database lacks tables. The process starts anyway. */
async function reportSchema({ db, log }: Dependencies): Promise<void> {
  // `checkDatabaseOrExit` has logged an unreachable database.
  const obstacle = await findSchemaObstacle(db).catch(() => null);
  if (obstacle !== null) log.error(obstacle);
}

/** Runs the service as configured by `env` until a signal ends it. */
export async function serve(
  env: NodeJS.ProcessEnv,
  now: () => Date = () => new Date(),
): Promise<void> {
  const config = orExit(() => readConfig(env));
  const logDestination = createLogDestination(process.stdout);
  const log = createLogger(config, logDestination);
  // A closed stderr must not end the process.
  process.stderr.on('error', () => {});
  const tracing = config.tracing ? await startTracing(log) : null;
  for (const url of new Set([config.databaseUrl, config.snapshotDatabaseUrl])) {
    await checkDatabaseOrExit(url, log);
  }
  const dependencies = orExit(() => createDependencies(config, log, now));
  await reportSchema(dependencies);
  const app = await buildApp(dependencies);
  // Connections to reset if they are open after the time limit.
  const sockets = new Set<Socket>();
  app.server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  const worker =
    config.processRole === 'api'
      ? null
      : startWorker({
          ...dependencies,
          encryptionKeys: config.encryptionKeys,
          retention: config.retention,
          chunkGraceMinutes: config.chunkGraceMinutes,
        });

  const stop = async (signal: NodeJS.Signals): Promise<void> => {
    dependencies.isStopping = true;
    log.info({ signal }, 'shutdown started');
    const cutOff = setTimeout(() => {
      for (const socket of sockets) resetConnection(socket);
    }, stopTimeoutMs);
    // Drain only on SIGTERM and only behind a load balancer. SIGINT stops at once.
    const hasBalancer = signal === 'SIGTERM' && config.processRole !== 'worker';
    await Promise.all([drain(app, hasBalancer ? config.drainMs : 0), worker?.stop()]);
    clearTimeout(cutOff);
    await dependencies.close();
    await tracing?.stop();
    log.info('shutdown finished');
    await logDestination.flush(flushTimeoutMs);
  };

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      // Repeated signals, such as from a terminal and from npm, have no effect.
      if (dependencies.isStopping) return;
      stop(signal).then(
        () => process.exit(0),
        error => {
          log.fatal({ err: error }, 'shutdown failed');
          logDestination.flush(flushTimeoutMs).finally(() => process.exit(1));
        },
      );
    });
  }

  try {
    await app.listen({ host: config.host, port: config.port });
  } catch (error) {
    log.fatal({ err: error }, 'start failed');
    await worker?.stop();
    await dependencies.close();
    await logDestination.flush(flushTimeoutMs);
    process.exit(1);
  }
}
