import { parseArgs } from 'node:util';
import { ApiError } from '@warehouse-export/client';
import { ConfigError } from '../src/config/config.ts';
import { automaticExportTour } from './automatic-export-tour.ts';
import { DemoError, operatorToken, startDemo } from './start-demo.ts';
import { formatTour, formatVariables, manualExportTour } from './tour.ts';

const stop = new AbortController();
// On Ctrl-C, the terminal signals all processes and npm forwards the signal again. The second
// signal is ignored.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => stop.abort());
// npm sends a signal to a shell, which may die without forwarding it. The parent process then
// changes.
const parent = process.ppid;
setInterval(() => process.ppid === parent || stop.abort(), 500).unref();
// The terminal was closed, or a reader such as `| head` has ended.
process.stdout.on('error', () => stop.abort());

const undo: (() => Promise<void>)[] = [];
const started = performance.now();
let step = '';

try {
  const demo = await startDemo({
    port: readPort(process.env['PORT']),
    days: readDays(process.argv.slice(2)),
    now: () => new Date(),
    signal: stop.signal,
    onProgress: showProgress,
    onCleanup: action => undo.unshift(action),
  });
  endStep();
  console.log(
    `\nReady after ${((performance.now() - started) / 1000).toFixed(1)} s. Settings page: ${demo.url}/demo`,
  );
  console.log(`API: ${demo.url} (docs: ${demo.url}/docs)`);
  console.log(`Operator token: ${operatorToken}`);
  console.log('\nPaste these variables into another terminal first:\n');
  console.log(
    formatVariables({
      api: `${demo.url}/v1/environments`,
      free_key: demo.keys['demo-free'],
      pro_key: demo.keys['demo-pro'],
      enterprise_key: demo.keys['demo-enterprise'],
    }),
  );
  console.log('\nThen each of these commands works as printed:\n');
  console.log(formatTour([manualExportTour(), automaticExportTour(demo)]));
  console.log('Ctrl-C stops the demo and deletes its data.');
  await untilAborted(stop.signal);
} catch (error) {
  if (!stop.signal.aborted) {
    process.exitCode = 1;
    endStep();
    const isPlain =
      error instanceof DemoError || error instanceof ApiError || error instanceof ConfigError;
    console.error(isPlain ? error.message : error);
  }
} finally {
  if (stop.signal.aborted) console.log('\nStopping …');
  for (const action of undo) {
    await action().catch((error: unknown) => {
      process.exitCode = 1;
      console.error(error);
    });
  }
}
// All work is done, but a library may keep the process alive.
process.exit();

function readPort(value: string | undefined): number {
  const port = Number(value ?? '3000');
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new DemoError('PORT must be a number from 0 to 65535');
  }
  return port;
}

/** `npm run demo -- --days 30` starts faster, with less to export. */
function readDays(args: string[]): number {
  try {
    const { days } = parseArgs({
      args,
      options: { days: { type: 'string', default: '200' } },
    }).values;
    if (/^[1-9]\d{0,2}$/.test(days)) return Number(days);
  } catch {
    // Every wrong option gets the same advice.
  }
  throw new DemoError('The only option is --days, from 1 to 999: npm run demo -- --days 30');
}

/** Prints one line for each step. In a terminal the line also shows progress. */
function showProgress(name: string, detail = ''): void {
  if (name !== step) endStep();
  if (process.stdout.isTTY) process.stdout.write(`\r${name} … ${detail}`);
  else if (name !== step) console.log(`${name} …`);
  step = name;
}

function endStep(): void {
  if (step !== '' && process.stdout.isTTY) process.stdout.write('\n');
  step = '';
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise(resolve => signal.addEventListener('abort', resolve, { once: true }));
}
