import type { Socket } from 'node:net';
import { buildApp } from './app.ts';
import { ConfigError, readConfig } from './config/config.ts';
import { createDependencies } from './dependencies.ts';
import { breakOff } from './http/break-off.ts';
import { drain } from './http/drain.ts';
import { createLogger } from './observability/logger.ts';
import { startTracing } from './observability/start-tracing.ts';
import { startWorker } from './worker.ts';

/** How long downloads and runs may take to finish once the process is told to stop. */
const stopTimeoutMs = 30_000;

/** A setting at fault ends the start with one line that names it. */
function orExit<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}

/** Serves in this process, as its environment says, until a signal ends it. */
export async function serve(
  env: NodeJS.ProcessEnv,
  now: () => Date = () => new Date(),
): Promise<void> {
  const config = orExit(() => readConfig(env));
  const log = createLogger(config);
  const tracing = config.tracing ? await startTracing(log) : null;
  const dependencies = orExit(() => createDependencies(config, log, now));
  const app = await buildApp(dependencies);
  // To break off what is not done in time.
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
    log.info({ signal }, 'stopping');
    const cutOff = setTimeout(() => {
      for (const socket of sockets) breakOff(socket);
    }, stopTimeoutMs);
    // A worker has no balancer before it, and who presses Ctrl-C does not want to wait.
    const hasBalancer = signal === 'SIGTERM' && config.processRole !== 'worker';
    await Promise.all([drain(app, hasBalancer ? config.drainMs : 0), worker?.stop()]);
    clearTimeout(cutOff);
    await dependencies.close();
    await tracing?.stop();
    log.info('stopped');
  };

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      // Told again, as by a terminal and by npm, it goes on with what it does.
      if (dependencies.isStopping) return;
      stop(signal).then(
        () => process.exit(0),
        error => {
          log.fatal({ err: error }, 'could not stop in order');
          process.exit(1);
        },
      );
    });
  }

  try {
    await app.listen({ host: config.host, port: config.port });
  } catch (error) {
    log.fatal({ err: error }, 'could not start');
    await worker?.stop();
    await dependencies.close();
    process.exit(1);
  }
}
