/**
 * Starts the servers that the tests need, runs the tests with tap and stops everything.
 *
 *   npm test [-- files, folders, tap options]
 *
 * Tests in `test/faults` and `test/soak` take long. They run only on request: `npm run
 * test:faults`, `npm run test:soak`.
 *
 * Environment:
 * - `TEST_DATABASE_URL`: a Postgres to use instead of a new one. Its user must be able to create
 * databases.
 * - `TEST_POSTGRES_BIN`: the bin directory of the Postgres to start. Default: the one of the npm
 * package.
 * - `TEST_ORDER=reverse`: the tests of each file run in reverse order.
 * - `TEST_SCALE=full`: random tests try as many cases as in `npm run test:faults`.
 * - `TEST_SEED`: the seed of random tests, to repeat a failure.
 * - `CI=true`: installs a missing S3 server with apt, and fails without one.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { startPostgresServer } from '../dev/postgres-server.ts';
import { startS3Server, whyNoS3Server } from '../dev/s3-server.ts';
import { createTemplateDatabase, dropTemplateDatabase } from './helpers/postgres.ts';
import { usedSecrets } from './helpers/secrets.ts';
import { waitFor } from './helpers/wait-for.ts';

const root = path.join(import.meta.dirname, '..');
const preload = path.join(root, 'test/helpers/without-tap-hooks.ts');
const isCi = process.env['CI'] === 'true';
const outputDirectory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-output-'));
const cleanups: (() => Promise<void>)[] = [];
const interrupted = new AbortController();

process.env['TEST_SECRETS_FILE'] = path.join(outputDirectory, 'secrets');
fs.mkdirSync(path.join(outputDirectory, 'logs'));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => interrupted.abort(signal));
}
// npm passes a signal to a shell, which ends without passing it on. The parent process then
// changes.
const parent = process.ppid;
setInterval(
  () => process.ppid === parent || interrupted.abort('the end of its parent'),
  500,
).unref();

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(interrupted.signal.aborted ? `Stopped by ${interrupted.signal.reason}.` : error);
  process.exitCode = 1;
} finally {
  for (const cleanup of cleanups.reverse()) {
    await cleanup().catch(error => {
      console.error(error);
      process.exitCode = 1;
    });
  }
  fs.rmSync(outputDirectory, { recursive: true, force: true });
}

async function main(args: readonly string[]): Promise<number> {
  const options = args.filter(arg => arg.startsWith('-'));
  const files = testFiles(args.filter(arg => !arg.startsWith('-')));
  const preparing = [prepareDatabase(), prepareS3(files)] as const;
  // Waits for both starts, successful or not, before the clean-up.
  await Promise.allSettled(preparing);
  const [database, s3] = await Promise.all(preparing);
  interrupted.signal.throwIfAborted();
  if (s3.leftOut !== null) console.log(s3.leftOut);
  const env = {
    TZ: 'America/New_York',
    ...process.env,
    ...database,
    ...s3.env,
    TEST_LOG_DIRECTORY: path.join(outputDirectory, 'logs'),
    // Halves the CPU time in which a process starts. Helpers pass it on to services.
    NODE_COMPILE_CACHE: path.join(root, 'node_modules/.cache/compiled'),
    NODE_OPTIONS: `--import=${pathToFileURL(preload)}`,
  };
  return await runTap(files, options, env, s3);
}

/** Returns the files to run. tap sorts them by name. */
function testFiles(asked: readonly string[]): string[] {
  const all = fs.globSync('test/**/*.test.ts', { cwd: root });
  const wanted = asked.map(name => path.relative(root, path.resolve(name)));
  const unknown = wanted.filter(
    name => !all.some(file => file === name || file.startsWith(`${name}/`)),
  );
  if (unknown.length > 0) throw new Error(`No tests in ${unknown.join(', ')}`);
  if (wanted.length === 0) return all.filter(file => !/^test\/(faults|soak)\//.test(file));
  return all.filter(file => wanted.some(name => file === name || file.startsWith(`${name}/`)));
}

async function prepareDatabase(): Promise<Record<string, string>> {
  const given = process.env['TEST_DATABASE_URL'];
  const server = given
    ? null
    : await startPostgresServer({ logFile: path.join(outputDirectory, 'logs/postgres') });
  if (server !== null) cleanups.push(server.remove);
  const url = given || (server?.url ?? '');
  const template = await createTemplateDatabase(url);
  cleanups.push(() => dropTemplateDatabase(url, template));
  return {
    TEST_POSTGRES_URL: url,
    TEST_TEMPLATE_DATABASE: template,
    ...(server === null ? {} : { TEST_POSTGRES_BIN: server.binDirectory }),
  };
}

interface S3 {
  readonly env: Record<string, string>;
  readonly leftOut: string | null;
}

async function prepareS3(files: readonly string[]): Promise<S3> {
  const users = files.filter(file =>
    fs.readFileSync(path.join(root, file), 'utf8').includes('helpers/s3.ts'),
  );
  if (users.length === 0) return { env: {}, leftOut: null };
  const reason = whyNoS3Server(isCi);
  if (reason === null) {
    const { server, remove } = await startS3Server();
    cleanups.push(remove);
    return { env: { TEST_S3: JSON.stringify(server) }, leftOut: null };
  }
  if (isCi) throw new Error(`CI needs the S3 server: ${reason}`);
  return {
    env: {},
    leftOut: `SKIPPED: the checks against a real S3 server in ${users.join(', ')}: ${reason}`,
  };
}

async function runTap(
  files: string[],
  options: string[],
  env: NodeJS.ProcessEnv,
  s3: S3,
): Promise<number> {
  const log = fs.createWriteStream(path.join(outputDirectory, 'logs/tap'));
  const tap = path.join(root, 'node_modules/tap/dist/esm/run.mjs');
  // Many tests wait for time limits, so more files run at a time than there are cores.
  const jobs = `--jobs=${os.availableParallelism() + 2}`;
  const fixed = ['--disable-coverage', jobs, '--timeout=600', '--reporter=base', '--no-color'];
  if (process.env['TEST_ORDER'] === 'reverse')
    fixed.push('--node-arg=--import=./test/helpers/reverse-order.ts');
  // tap runs in a separate process group, so that processes that tests leave can be found and
  // ended.
  const child = spawn(process.execPath, [tap, 'run', ...fixed, ...options, ...files], {
    cwd: root,
    // tap's reporter then prints each line once. It would draw the screen again for each assertion.
    env: { ...env, CI: 'true' },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (chunk: Buffer) => {
      log.write(chunk);
      process[name].write(chunk);
    });
  }
  const stop = () => {
    signalGroup(child, 'SIGTERM');
    setTimeout(() => signalGroup(child, 'SIGKILL'), 10_000).unref();
  };
  interrupted.signal.addEventListener('abort', stop);
  const [code] = (await once(child, 'exit')) as [number | null];
  const leftRunning = await endGroup(child);
  if (child.stdout.readable || child.stderr.readable)
    await Promise.race([once(child, 'close'), delay(10_000, undefined, { ref: false })]);
  await new Promise(resolve => log.end(resolve));
  interrupted.signal.throwIfAborted();

  // Checks of the whole run.
  const faults = [...(leftRunning ? ['Tests left processes running.'] : []), ...printedSecrets()];
  if (s3.leftOut !== null) console.log(s3.leftOut);
  for (const fault of faults) console.log(`FAILED: ${fault}`);
  // A signal has ended tap if there is no exit code.
  return faults.length > 0 ? code || 1 : (code ?? 1);
}

/**
 * Searches the output of tests, services and Postgres for secrets. Also finds those that tap's
 * reporter has broken into lines.
 */
function printedSecrets(): string[] {
  const secrets = usedSecrets();
  return fs
    .readdirSync(path.join(outputDirectory, 'logs'), { recursive: true, encoding: 'utf8' })
    .flatMap(name => {
      const file = path.join(outputDirectory, 'logs', name);
      if (!fs.statSync(file).isFile()) return [];
      const text = fs.readFileSync(file, 'utf8');
      const joined = text.replaceAll('\n', '');
      return [...secrets]
        .filter(secret => text.includes(secret) || joined.includes(secret))
        .map(secret => `The secret that starts with ${secret.slice(0, 4)}… was printed (${name}).`);
    });
}

/**
 * Kills the processes that remain in tap's process group a moment after tap.
 *
 * @returns true if there were any
 */
async function endGroup(child: ChildProcess): Promise<boolean> {
  const isGone = () => !signalGroup(child, 0);
  return await waitFor('the end of all processes', isGone, { limitMs: 10_000 }).then(
    () => false,
    () => signalGroup(child, 'SIGKILL'),
  );
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals | 0): boolean {
  try {
    return child.pid !== undefined && process.kill(-child.pid, signal);
  } catch {
    return false;
  }
}
