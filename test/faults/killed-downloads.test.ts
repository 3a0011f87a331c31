import t from 'tap';
import { isoDate } from '../../src/shared/iso-date.ts';
import { startApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { ask } from '../helpers/http-client.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { needsProgram, startProgram } from '../helpers/programs.ts';
import { readMetrics } from '../helpers/read-metrics.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { isFullScale } from '../helpers/scale.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startApiProcess } from '../helpers/service-process.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** Downloads with curl from a process that is killed. */

t.setTimeout(400_000);

const database = await createTestDatabase(t);
const today = isoDate(new Date());
const own = await startApp(t, { databaseUrl: database.url, now: new Date().toISOString() });
// HTTP/1.0 renders fresh snapshots, so its downloads have an environment of their own.
for (const environmentId of ['rendered', 'fresh', 'fresh-1_0']) {
  await own.putEnvironment(environmentId, 'pro');
  await writeDenseSnapshot(database.pool, { environmentId, date: today, rows: 60_000 });
  if (environmentId === 'rendered') await renderAll(own);
}

const forms = [
  ['rendered', '1.0'],
  ['rendered', '1.1'],
  ['fresh', '1.1'],
  ['fresh-1_0', '1.0'],
].flatMap(([environmentId, version]) =>
  ['identity', 'gzip'].map(encoding => ({ environmentId, version, encoding })),
);

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  const needsCurl = needsProgram('curl');
  const skip = signal === 'SIGTERM' && !isFullScale ? 'takes 30 s' : needsCurl.skip;
  t.test(`curl fails when ${signal} ends the process`, { skip }, async t => {
    const service = await startApiProcess(database.url, { SHUTDOWN_DRAIN_SECONDS: '1' });
    t.teardown(() => service.end('SIGKILL'));
    const downloads = forms.map(form => ({
      form,
      curl: startProgram(t, 'curl', [
        ...['-sS', '-o', '/dev/null', '--limit-rate', '200K', `--http${form.version}`],
        ...['-H', `Authorization: Bearer ${testAdminToken}`],
        ...['-H', `Accept-Encoding: ${form.encoding}`],
        `${service.origin}/v1/environments/${form.environmentId}/exports/today.csv`,
      ]),
    }));
    await waitFor('the start of all downloads', async () => {
      const metrics = readMetrics((await ask(`${service.origin}/metrics`)).text);
      return metrics.get('whx_downloads_in_progress') === downloads.length;
    });
    const ended = await service.end(signal);
    t.equal(ended, signal === 'SIGKILL' ? 'SIGKILL' : 0);
    for (const { form, curl } of downloads) {
      t.not(await curl.ended, 0, `${JSON.stringify(form)}: ${curl.stderr()}`);
    }
  });
}
