import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { needsProgram, startProgram } from '../helpers/programs.ts';
import { eventually } from '../helpers/raw-http.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { testAdminToken } from '../helpers/secrets.ts';

/** Downloads that real programs interrupt and resume. */

t.setTimeout(300_000);

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');
const snapshot = { environmentId: 'acme', date: '2026-03-02', rows: 4_000 };
const authorization = `Authorization: Bearer ${testAdminToken}`;
const url = (extension: string) => `${app.origin}/v1/environments/acme/exports/today.${extension}`;
const hashOf = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

async function replaceSnapshot(salt: string): Promise<void> {
  await writeDenseSnapshot(app.database.pool, { ...snapshot, salt });
  await renderAll(app);
}

/** Starts a program, waits until it has written part of the file and kills it. */
async function interrupt(
  t: Test,
  file: string,
  name: string,
  args: readonly string[],
): Promise<void> {
  const program = startProgram(t, name, args);
  await eventually(() => fs.existsSync(file) && fs.statSync(file).size > 100_000, 'a part');
  program.child.kill('SIGKILL');
  await program.ended;
}

t.test('resumes a download by curl with If-Range', needsProgram('curl'), async t => {
  for (const extension of ['csv', 'csv.gz']) {
    await replaceSnapshot(`${extension} 1`);
    const whole = await app.call(new URL(url(extension)).pathname);
    const { etag = '' } = whole.headers;
    const file = path.join(t.testdir(), `curl.${extension}`);
    const curl = ['-sS', '--fail', '-H', authorization, '-o', file, url(extension)];
    await interrupt(t, file, 'curl', ['--limit-rate', '500k', ...curl]);
    const before = fs.statSync(file).size;
    t.ok(before < whole.body.length);
    const resume = ['-C', '-', '-H', `If-Range: ${etag}`, ...curl];
    const resumed = startProgram(t, 'curl', resume);
    t.equal(await resumed.ended, 0, resumed.stderr());
    t.equal(hashOf(fs.readFileSync(file)), hashOf(whole.body), extension);

    // If the file was replaced, curl refuses the complete new file at this offset.
    fs.truncateSync(file, before);
    await replaceSnapshot(`${extension} 2`);
    const refused = startProgram(t, 'curl', resume);
    t.equal(await refused.ended, 33, 'the server sends no range');
    t.equal(fs.statSync(file).size, before, 'the old file is unchanged');
  }
});

t.test('resumes a download by wget', needsProgram('wget'), async t => {
  for (const extension of ['csv', 'csv.gz']) {
    await replaceSnapshot(`wget ${extension}`);
    const whole = await app.call(new URL(url(extension)).pathname);
    const file = path.join(t.testdir(), `wget.${extension}`);
    const wget = ['-q', '--tries=1', `--header=${authorization}`, '-O', file, url(extension)];
    await interrupt(t, file, 'wget', ['--limit-rate=500k', ...wget]);
    t.ok(fs.statSync(file).size < whole.body.length);
    const resumed = startProgram(t, 'wget', ['-c', ...wget]);
    t.equal(await resumed.ended, 0, resumed.stderr());
    t.equal(hashOf(fs.readFileSync(file)), hashOf(whole.body), extension);
    const again = startProgram(t, 'wget', ['-c', ...wget]);
    t.equal(await again.ended, 0, 'a complete file is unchanged');
    t.equal(hashOf(fs.readFileSync(file)), hashOf(whole.body), extension);
  }
});
