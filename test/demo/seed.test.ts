import { execFile } from 'node:child_process';
import path from 'node:path';
import t from 'tap';
import { estimateStory } from '../../demo/estimate-story.ts';
import { snapshotCsv } from '../../demo/generate-snapshots.ts';
import { snapshotDates, snapshotInstant, storyUpTo } from '../../demo/story.ts';
import { startTestApp } from '../helpers/app.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { compileCache } from '../helpers/start-flags.ts';

t.setTimeout(300_000);

const program = path.join(import.meta.dirname, '../../demo/seed.ts');

function seed(args: readonly string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise(resolve =>
    execFile(
      process.execPath,
      [program, ...args],
      { env: { ADMIN_TOKEN: testAdminToken, ...compileCache() } },
      (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }),
    ),
  );
}

t.test('seed keeps name and plan of an existing environment', async t => {
  const app = await startTestApp(t, { now: new Date().toISOString() });
  const body = { name: 'Acme production', plan: 'pro' };
  await app.call('/v1/environments/acme', { method: 'PUT', json: body });
  const size = ['--url', app.origin, '--companies', '5', '--features', '3', '--days', '4'];
  const first = await seed([...size, '--environment', 'acme', '--plan', 'free']);
  t.equal(first.code, 0, first.stderr);
  t.match((await app.call('/v1/environments/acme')).json, body);

  const lines = first.stdout.split('\n');
  t.match(lines[0], /^Sending about \d+ rows in 5 snapshots to acme, 1 MB as CSV/);
  t.match(lines[1], /1\/5 snapshots/, 'progress without a terminal');
  t.match(first.stdout, /5\/5 snapshots/);

  const second = await seed([...size, '--environment', 'other', '--plan', 'free']);
  t.equal(second.code, 0, second.stderr);
  t.match((await app.call('/v1/environments/other')).json, { name: 'other', plan: 'free' });
});

t.test('seed estimates rows and bytes within 15 percent', async t => {
  const now = new Date('2026-03-02T15:30:00.000Z');
  const story = storyUpTo(now, { seed: 1, companies: 500, features: 24, days: 6 });
  let bytes = 0;
  let lines = 0;
  for (const date of snapshotDates(story)) {
    for await (const chunk of snapshotCsv(story, snapshotInstant(date, now))) {
      const text = String(chunk);
      bytes += Buffer.byteLength(text);
      lines += text.split('\n').length - 1;
    }
  }
  const estimate = estimateStory(story, now);
  t.ok(Math.abs(estimate.rows / lines - 1) < 0.15, `${estimate.rows} of ${lines}`);
  t.ok(Math.abs(estimate.csvBytes / bytes - 1) < 0.15, `${estimate.csvBytes} of ${bytes}`);
});
