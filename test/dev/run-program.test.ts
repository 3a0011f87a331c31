import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import t from 'tap';
import { runProgram } from '../../dev/run-program.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.test('ends all processes of an aborted program before it rejects', async t => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'whx-run-program-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  const abort = new AbortController();
  const script = `sh -c 'echo $$ > child; while :; do echo x >> file; done' & wait`;
  const running = runProgram('sh', ['-c', script], { cwd: directory, signal: abort.signal });
  await waitFor('the child', () => fs.existsSync(path.join(directory, 'file')));
  abort.abort(new Error('stopped'));
  await t.rejects(running, { message: 'stopped' });
  const child = fs.readFileSync(path.join(directory, 'child'), 'utf8').trim();
  const { stdout } = spawnSync('ps', ['-o', 'stat=', '-p', child], { encoding: 'utf8' });
  // A dead process is a zombie (Z) until its new parent reads its exit code.
  t.match(stdout.trim(), /^(?:Z.*)?$/);
});

t.test('reports a failed program with its stderr, and a missing one', async t => {
  await t.rejects(runProgram('sh', ['-c', 'echo why >&2; exit 3']), { message: 'sh failed: why' });
  await t.rejects(runProgram('/does/not/exist', []), { code: 'ENOENT' });
  await t.resolves(runProgram('sh', ['-c', 'exit 0']));
});

t.test('starts nothing after an abort', async t => {
  const signal = AbortSignal.abort(new Error('stopped'));
  await t.rejects(runProgram('/does/not/exist', [], { signal }), { message: 'stopped' });
});
