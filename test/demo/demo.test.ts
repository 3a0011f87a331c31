import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';

const root = path.join(import.meta.dirname, '../..');
const main = path.join(root, 'demo/main.ts');

t.setTimeout(180_000);

interface RunningDemo {
  readonly child: ChildProcess;
  readonly port: number;
  /** Where it makes its temporary directory; its path is an argument of every process that it starts. */
  readonly temporary: string;
  /** Resolves once this text was printed; rejects when the demo ends before. */
  readonly until: (wanted: string) => Promise<string>;
  readonly stderr: () => string;
}

/** In a process group of its own, as a terminal starts it. */
async function start(
  t: Test,
  command: string,
  args: string[],
  port?: number,
): Promise<RunningDemo> {
  const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'whx-demo-test-'));
  // Postgres runs as another user when this is root.
  fs.chmodSync(temporary, 0o755);
  const freePort = port ?? (await findFreePort());
  const child = spawn(command, args, {
    cwd: root,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      PATH: `${path.dirname(process.execPath)}:${process.env['PATH']}`,
      NODE_OPTIONS: '',
      // npm's own, which it would leave in TMPDIR.
      NODE_DISABLE_COMPILE_CACHE: '1',
      PORT: String(freePort),
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
  const until = async (wanted: string) => {
    while (!stdout.includes(wanted)) {
      if (child.exitCode !== null)
        throw new Error(`ended with ${child.exitCode}: ${stdout}${stderr}`);
      await delay(50);
    }
    return stdout;
  };
  return { child, port: freePort, temporary, until, stderr: () => stderr };
}

async function findFreePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** The main process that npm's shell has started, and all else that has the demo's directory in its arguments. */
async function processesOf(demo: RunningDemo): Promise<string[]> {
  const ps = spawn('ps', ['-axo', 'pid,pgid,args'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = (await text(ps.stdout)).split('\n');
  const group = String(demo.child.pid);
  return lines.filter(
    line => line.trim().split(/\s+/)[1] === group || line.includes(demo.temporary),
  );
}

async function assertNothingLeft(t: Test, demo: RunningDemo): Promise<void> {
  const deadline = Date.now() + 10_000;
  let left = await processesOf(demo);
  while (left.length > 0 && Date.now() < deadline) {
    await delay(100);
    left = await processesOf(demo);
  }
  t.same(left, [], 'no process is left');
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

/** What each line of the tour must show, by its title. */
const expected: Readonly<Record<string, RegExp>> = {
  'The list of exports': /^\{"items":\[\{"aggregation":"today".*"6-months-weekly".*\]/,
  'Today, the first lines': /^Company ID,Company Name,.*\nc000001,.*\nc000001,.*\n$/,
  'Each of the last 30 days, saved under the name that the service proposes':
    /^\d{4,} \/.*\/demo-pro_30-days-daily_\d{4}-\d\d-\d\d\.csv\n$/,
  'Three months of weeks, the rows of each Sunday counted': /^( +\d+ \d{4}-\d\d-\d\d\n){5,14}$/,
  'Six months of weeks: the number of rows before the first byte':
    /^HTTP\/1\.1 200 OK\r\n(?:.|\s)*x-total-rows: \d+\r\n/i,
  'The same as a gzip file': /^c0000\d\d,.*\nc0000\d\d,.*\n$/,
  'The 18 columns': /^ +1\tCompany ID\n(?:.|\s)* +18\tSegment IDs\n$/,
  'A link that a browser can follow without a key, for five minutes':
    /^http:\/\/127\.0\.0\.1:\d+\/v1\/downloads\/\S+\nCompany ID,.*\nc000001,.*\nc000001,.*\n$/,
  'A plan that does not include it: 403 plan_upgrade_required':
    /"status":403.*"code":"plan_upgrade_required".*"requiredPlan":"pro"/,
  'A key of another environment: 404, as if the environment did not exist':
    /"status":404.*"code":"not_found"/,
  'Save with a key that the bucket does not know: refused, with what to change':
    /"code":"storage_validation_failed".*"storageError":\{"code":"access_key_not_recognised","message":".+","hint":".+"/,
  'Save with the right key: the service has tried to list and to write':
    /^\{"id":"(?!.*secretAccessKey).*"status":\{"status":"never ran before"/,
  'A config that works: its last run, and when it runs next':
    /^\{"status":"successful",.*"nextRunAt":"\d{4}-\d\d-\d\dT00:00:00.000Z","error":null,"turnedOff":null\}/,
  'A config whose bucket is gone: the error of its last run':
    /^\{"status":"failed",.*"lastSuccessfulRunAt":null,.*"error":\{"code":"bucket_not_found"/,
  'Run now': /^\{"id":.*"trigger":"manual".*"state":"(queued|running)"/,
  'The runs, newest first: one of last night, the others by hand':
    /"trigger":"manual".*"trigger":"schedule","slot":"\d{4}-\d\d-\d\dT00:00:00.000Z".*"trigger":"manual"/,
  'The objects in the bucket':
    /^exports\/_manifest\/company-adoption_demo-enterprise_\S+\.json\n(.*\n)*exports\/company-adoption_demo-enterprise_\S+\.csv\n/,
  'The file of last night': /^Company ID,Company Name,.*\nc000001,.*\nc000001,.*\n$/,
};

t.test(
  'npm run demo: every printed line works as it stands, and Ctrl-C leaves nothing behind',
  async t => {
    const demo = await start(t, 'npm', ['run', 'demo', '--', '--days', '40']);
    const stdout = await demo.until('Ctrl-C stops the demo');
    const commands = new Map(
      [...stdout.matchAll(/^# (.+)\n((?:.+\n)+)/gm)].map(([, title = '', lines = '']) => [
        title,
        lines,
      ]),
    );
    const variables = stdout.match(/^(api|\w+_key)=.+$/gm) ?? [];
    t.equal(variables.length, 4);
    const tooWide = stdout.split('\n').filter(line => line.length > 100);
    t.same(tooWide, [], 'every line fits in 100 columns');
    t.same(
      [...commands.keys()].sort(),
      Object.keys(expected).sort(),
      'each line has its expectation',
    );
    for (const [title, line] of commands) {
      await t.test(title, async t => {
        const { code, stdout, stderr } = await runInBash(`${variables.join('\n')}\n${line}`);
        t.equal(code, 0);
        t.equal(stderr, '');
        t.match(stdout, expected[title] ?? /never/);
      });
    }

    // A terminal sends Ctrl-C to the whole group: npm, its shell and the demo.
    process.kill(-(demo.child.pid ?? 0), 'SIGINT');
    await assertNothingLeft(t, demo);
    t.notMatch(demo.stderr(), /error/i);
  },
);

t.test('the second of two demos on one port prints one line', async t => {
  const first = await start(t, process.execPath, [main, '--days', '5']);
  await first.until('Starting Postgres');
  const second = await start(t, process.execPath, [main, '--days', '5'], first.port);
  t.same(await once(second.child, 'close'), [1, null]);
  t.match(second.stderr(), /^Port \d+ is taken\. .*PORT=\d+ npm run demo\n$/);
  t.same(fs.readdirSync(second.temporary), []);
  await first.until('Loading demo-free');
  const exit = once(first.child, 'exit');
  first.child.kill('SIGTERM');
  t.same(await exit, [0, null]);
});

t.test('SIGTERM while it is still loading leaves nothing behind', async t => {
  const demo = await start(t, process.execPath, [main]);
  await demo.until('Loading demo-free');
  t.ok(
    (await processesOf(demo)).some(line => line.includes('postgres')),
    'Postgres runs',
  );
  const exit = once(demo.child, 'exit');
  demo.child.kill('SIGTERM');
  t.same(await exit, [0, null]);
  await assertNothingLeft(t, demo);
});

t.test('when Postgres dies on the way, the demo says so and cleans up', async t => {
  const demo = await start(t, process.execPath, [main]);
  await demo.until('Loading demo-free');
  const postmaster = (await processesOf(demo)).find(line => line.includes('postgres'));
  const exit = once(demo.child, 'exit');
  process.kill(Number(postmaster?.trim().split(/\s+/)[0]), 'SIGKILL');
  t.same(await exit, [1, null]);
  t.match(demo.stderr(), /503 unavailable/);
  await assertNothingLeft(t, demo);
});

t.test('a port that is taken gives one clear line, before anything is started', async t => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const demo = await start(t, process.execPath, [main], port);
  t.same(await once(demo.child, 'close'), [1, null]);
  t.match(demo.stderr(), /^Port \d+ is taken\. .*PORT=\d+ npm run demo\n$/);
  t.same(fs.readdirSync(demo.temporary), []);
  server.close();
  await once(server, 'close');
});
