import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { freePort } from '../../dev/free-port.ts';
import { waitFor } from '../helpers/wait-for.ts';

const root = path.join(import.meta.dirname, '../..');
const main = path.join(root, 'demo/main.ts');
const compileCache = path.join(root, 'node_modules/.cache/compiled');

t.setTimeout(600_000);
/** Shorter than the time limit of the file, so that the error shows the output. */
const outputLimitMs = 550_000;

interface RunningDemo {
  readonly child: ChildProcess;
  readonly port: number;
  /** Folder for temporary files. Its path is an argument of every process that the demo starts. */
  readonly temporary: string;
  /** Resolves once stdout contains the text. Rejects if the demo ends earlier. */
  readonly waitFor: (text: string) => Promise<string>;
  readonly stderr: () => string;
}

/** Starts the demo in a separate process group, as a terminal does. */
async function start(
  t: Test,
  command: string,
  args: string[],
  port?: number,
): Promise<RunningDemo> {
  const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'whx-demo-test-'));
  // Postgres runs as another user if the test runs as root.
  fs.chmodSync(temporary, 0o755);
  const ownPort = port ?? (await freePort());
  const child = spawn(command, args, {
    cwd: root,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      PATH: `${path.dirname(process.execPath)}:${process.env['PATH']}`,
      NODE_OPTIONS: '',
      // npm would otherwise leave its compile cache in TMPDIR.
      NODE_COMPILE_CACHE: compileCache,
      PORT: String(ownPort),
      TMPDIR: temporary,
    },
  });
  t.teardown(() => {
    if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
      process.kill(-child.pid, 'SIGTERM');
    }
    fs.rmSync(temporary, { recursive: true, force: true });
  });
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  const readOutput = () => {
    if (child.exitCode !== null)
      throw new Error(`ended with ${child.exitCode}: ${stdout}${stderr}`);
    return stdout;
  };
  return {
    child,
    port: ownPort,
    temporary,
    waitFor: text =>
      waitFor(`the output "${text}"`, readOutput, {
        isWanted: output => output.includes(text),
        limitMs: outputLimitMs,
      }),
    stderr: () => stderr,
  };
}

/**
 * Returns the main process below npm's shell, and all processes with the demo's folder in their
 * arguments.
 */
async function processesOf(demo: RunningDemo): Promise<string[]> {
  const ps = spawn('ps', ['-axo', 'pid,pgid,args'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = (await text(ps.stdout)).split('\n');
  const group = String(demo.child.pid);
  return lines.filter(
    line => line.trim().split(/\s+/)[1] === group || line.includes(demo.temporary),
  );
}

async function assertNothingLeft(t: Test, demo: RunningDemo): Promise<void> {
  await waitFor('the end of all processes', () => processesOf(demo), {
    isWanted: left => left.length === 0,
  });
  t.same(fs.readdirSync(demo.temporary), [], 'no temporary directory is left');
  await t.rejects(fetch(`http://127.0.0.1:${demo.port}/health/live`), 'nothing listens');
}

function runInBash(command: string): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise(resolve =>
    execFile(
      'bash',
      ['-c', command],
      { cwd: os.tmpdir(), maxBuffer: 1e8 },
      (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }),
    ),
  );
}

/** Expected output of each command of the tour, by its title. */
const expected: Readonly<Record<string, RegExp>> = {
  'The list of exports': /^\{"items":\[\{"aggregation":"today".*"6-months-weekly".*\]/,
  'The first lines of today’s file': /^Company ID,Company Name,.*\nc000001,.*\nc000001,.*\n$/,
  'The last 30 days, saved under the file name that the service sends':
    /^\d{4,} \/.*\/demo-pro_30-days-daily_\d{4}-\d\d-\d\d\.csv\n$/,
  'Three months in weeks: the number of rows of each Sunday': /^( +\d+ \d{4}-\d\d-\d\d\n){2,14}$/,
  'Six months in weeks: the headers, with the number of rows':
    /^HTTP\/1\.1 200 OK\r\n(?:.|\s)*x-total-rows: \d+\r\n/i,
  'Six months in weeks as a gzip file': /^c0000\d\d,.*\nc0000\d\d,.*\n$/,
  'The 18 columns': /^ +1\tCompany ID\n(?:.|\s)* +18\tSegment IDs\n$/,
  'A link that works without a key for five minutes, for a browser':
    /^http:\/\/127\.0\.0\.1:\d+\/v1\/downloads\/\S+\nCompany ID,.*\nc000001,.*\nc000001,.*\n$/,
  'A plan without this export: 403 plan_upgrade_required':
    /"status":403.*"code":"plan_upgrade_required".*"requiredPlan":"pro"/,
  'A key of another environment: 404, as if the environment did not exist':
    /"status":404.*"code":"not_found"/,
  'Save with a wrong key: refused, and the answer says what to change':
    /"code":"storage_validation_failed".*"storageError":\{"code":"access_key_not_recognised","message":".+","hint":".+"/,
  'Save with the right key: the service lists and writes as a test, then saves':
    /^\{"id":"(?!.*secretAccessKey).*"status":\{"status":"never ran before"/,
  'A config that works: its last run, and when it runs next':
    /^\{"status":"successful",.*"nextRunAt":"\d{4}-\d\d-\d\dT00:00:00.000Z","error":null,"turnedOff":null,"currentRun":null\}/,
  'A config whose bucket was deleted: the error of its last run':
    /^\{"status":"failed",.*"lastSuccessfulRunAt":null,.*"error":\{"code":"bucket_not_found"/,
  'Run now': /^\{"id":.*"trigger":"manual".*"state":"(queued|running)"/,
  'The runs, newest first: last night’s scheduled run and the manual runs':
    /"trigger":"manual".*"trigger":"schedule","backfillId":null,"slot":"\d{4}-\d\d-\d\dT00:00:00.000Z".*"trigger":"manual"/,
  'The objects in the bucket':
    /^exports\/_manifest\/company-adoption_demo-enterprise_\S+\.json\n(.*\n)*exports\/company-adoption_demo-enterprise_\S+\.csv\n/,
  'The file of last night’s run': /^Company ID,Company Name,.*\nc000001,.*\nc000001,.*\n$/,
};

t.test('prints commands that work, refuses a second demo and ends on Ctrl-C', async t => {
  const demo = await start(t, 'npm', ['run', 'demo', '--', '--days', '16']);
  const stdout = await demo.waitFor('Ctrl-C stops the demo');
  const commands = new Map(
    [...stdout.matchAll(/^# (.+)\n((?:.+\n)+)/gm)].map(([, title = '', lines = '']) => [
      title,
      lines,
    ]),
  );
  const variables = stdout.match(/^(api|\w+_key)=.+$/gm) ?? [];
  t.equal(variables.length, 4);
  const [, page = ''] = /Settings page: (\S+)/.exec(stdout) ?? [];
  t.match(await (await fetch(page)).text(), /<h1>Data export<\/h1>/);
  t.equal((await fetch(`${page}/client/index.js`)).status, 200);
  const tooWide = stdout.split('\n').filter(line => line.length > 100);
  t.same(tooWide, [], 'every line fits in 100 columns');
  t.same(
    [...commands.keys()].sort(),
    Object.keys(expected).sort(),
    'each command has an expected output',
  );
  for (const [title, line] of commands) {
    await t.test(title, async t => {
      const { code, stdout, stderr } = await runInBash(`${variables.join('\n')}\n${line}`);
      t.equal(code, 0);
      t.equal(stderr, '');
      t.match(stdout, expected[title] ?? /never/);
    });
  }

  const second = await start(t, process.execPath, [main], demo.port);
  t.same(await once(second.child, 'close'), [1, null]);
  t.match(second.stderr(), /^Port \d+ is taken\. .*PORT=\d+ npm run demo\n$/);
  t.same(fs.readdirSync(second.temporary), [], 'the second demo starts nothing');

  // A terminal sends Ctrl-C to the whole group: npm, its shell and the demo.
  process.kill(-(demo.child.pid ?? 0), 'SIGINT');
  await assertNothingLeft(t, demo);
  t.notMatch(demo.stderr(), /error/i);
});

t.test('deletes everything on SIGTERM while initdb runs', async t => {
  const demo = await start(t, process.execPath, [main]);
  const firstFile = '*/data/PG_VERSION';
  await waitFor(
    'the first file of initdb',
    () => fs.globSync(firstFile, { cwd: demo.temporary }).length > 0,
    { limitMs: outputLimitMs },
  );
  const exit = once(demo.child, 'exit');
  demo.child.kill('SIGTERM');
  t.same(await exit, [0, null]);
  await assertNothingLeft(t, demo);
});

t.test('reports a killed Postgres and deletes everything', async t => {
  const demo = await start(t, process.execPath, [main]);
  await demo.waitFor('Loading demo-free');
  const postmaster = (await processesOf(demo)).find(line => line.includes('postgres'));
  const exit = once(demo.child, 'exit');
  process.kill(Number(postmaster?.trim().split(/\s+/)[0]), 'SIGKILL');
  t.same(await exit, [1, null]);
  t.match(demo.stderr(), /503 unavailable/);
  await assertNothingLeft(t, demo);
});
