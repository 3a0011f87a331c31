import { buildApp } from './app.ts';
import { ConfigError, readConfig } from './config.ts';
import { createDependencies } from './dependencies.ts';
import { createLogger } from './log.ts';

/** How long downloads and runs may take to finish once the process is told to stop. */
const stopTimeoutMs = 30_000;

function readConfigOrExit(): ReturnType<typeof readConfig> {
  try {
    return readConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}

const config = readConfigOrExit();
const log = createLogger(config);
const dependencies = createDependencies(config, log);
const app = await buildApp(dependencies);

async function stop(signal: string): Promise<void> {
  if (dependencies.isStopping) return;
  dependencies.isStopping = true;
  log.info({ signal }, 'stopping');
  const cutOff = setTimeout(() => app.server.closeAllConnections(), stopTimeoutMs);
  await app.close();
  clearTimeout(cutOff);
  await dependencies.close();
  log.info('stopped');
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
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
  await dependencies.close();
  process.exit(1);
}
