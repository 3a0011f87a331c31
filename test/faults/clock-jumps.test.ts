import t, { type Test } from 'tap';
import { tickQueue } from '../../src/db/job-queue.ts';
import { adoptionRow, loadBody } from '../helpers/adoption-rows.ts';
import { makeConfig, startExportApp, startExportWorker, until } from '../helpers/export-configs.ts';
import { contentsOf, needsS3, s3Destination } from '../helpers/s3.ts';

/** The clock of a worker leaps by a day and comes back. 2026-03-02 is a Monday. */

t.setTimeout(120_000);

async function start(t: Test) {
  const app = await startExportApp(t, { now: '2026-03-02T10:00:00.000Z' });
  await app.putEnvironment('acme');
  const { id, key } = await makeConfig(app, 'acme');
  const load = async (date: string) => {
    const answer = await app.load('acme', date, loadBody([adoptionRow({ companyId: date })]));
    t.ok(answer.status < 300, `${date}: ${answer.text}`);
  };
  startExportWorker(t, app);
  const runs = async () =>
    (await app.call(`/v1/environments/acme/export-configs/${id}/runs`)).json.items.map(
      (run: Record<string, unknown>) =>
        [
          run['slot'],
          run['snapshotDate'],
          run['state'],
          (run['error'] as { code: string } | null)?.code,
        ]
          .filter(Boolean)
          .join(' ')
          .replace('T00:00:00.000Z', ''),
    );
  /** Tells the clock, has every worker look at it, and waits for the run as it should be. */
  const at = async (instant: string, newest: string) => {
    app.setNow(instant);
    await until(
      async () => {
        await app.dependencies.jobs.send(tickQueue);
        return (await runs())[0] ?? 'none';
      },
      found => found === newest,
      20_000,
    );
  };
  const objects = async () =>
    (await contentsOf(s3Destination({ key }))).objects.map(name => name.replace(/.*_acme_/, ''));
  return { app, load, runs, at, objects };
}
t.test('forward by a day and back: every slot once', needsS3, async t => {
  const { load, runs, at, objects } = await start(t);
  await at('2026-03-02T10:01:00Z', 'none');
  await load('2026-03-02');
  // The slot of a midnight that has not come is run, by the snapshot as it is.
  await at('2026-03-03T10:01:00Z', '2026-03-03 2026-03-02 successful');
  await at('2026-03-02T10:02:00Z', '2026-03-03 2026-03-02 successful');
  await at('2026-03-03T00:00:00Z', '2026-03-03 2026-03-02 successful');
  await load('2026-03-03');
  await at('2026-03-04T00:00:00Z', '2026-03-04 2026-03-03 successful');
  t.strictSame(await runs(), [
    '2026-03-04 2026-03-03 successful',
    '2026-03-03 2026-03-02 successful',
  ]);
  t.strictSame(await objects(), ['2026-03-02.csv', '2026-03-03.csv']);
});

t.test('back by a day and forth: nothing is run again, nothing is left out', needsS3, async t => {
  const { load, runs, at, objects } = await start(t);
  await load('2026-03-02');
  await at('2026-03-03T00:00:01Z', '2026-03-03 2026-03-02 successful');
  await at('2026-03-02T00:00:01Z', '2026-03-03 2026-03-02 successful');
  await at('2026-03-01T23:00:00Z', '2026-03-03 2026-03-02 successful');
  await at('2026-03-03T00:00:02Z', '2026-03-03 2026-03-02 successful');
  await load('2026-03-03');
  await at('2026-03-04T00:00:00Z', '2026-03-04 2026-03-03 successful');
  t.equal((await runs()).length, 2);
  t.strictSame(await objects(), ['2026-03-02.csv', '2026-03-03.csv']);
});

t.test('forward by a day while a run waits for its snapshot, and back', needsS3, async t => {
  const { app, load, runs, at, objects } = await start(t);
  await at('2026-03-03T00:00:10Z', '2026-03-03 2026-03-02 queued');
  // By that clock the next slot has come, at which a run that waits is given up.
  await at('2026-03-04T00:00:10Z', '2026-03-04 2026-03-03 queued');
  app.setNow('2026-03-03T00:00:20Z');
  await load('2026-03-02');
  app.setNow('2026-03-04T00:00:15Z');
  await load('2026-03-03');
  await at('2026-03-04T00:00:20Z', '2026-03-04 2026-03-03 successful');
  t.strictSame(await runs(), [
    '2026-03-04 2026-03-03 successful',
    '2026-03-03 2026-03-02 failed snapshot_missing',
  ]);
  t.strictSame(await objects(), ['2026-03-03.csv']);
});

t.test('two workers a day apart: every slot once', needsS3, async t => {
  const { app, load, runs, at, objects } = await start(t);
  await load('2026-03-02');
  // Whichever takes the tick, in any order.
  for (const now of [
    '2026-03-03T00:00:01Z',
    '2026-03-02T00:00:01Z',
    '2026-03-03T00:00:02Z',
    '2026-03-02T00:00:02Z',
  ]) {
    app.setNow(now);
    await app.dependencies.jobs.send(tickQueue);
  }
  await at('2026-03-03T00:00:03Z', '2026-03-03 2026-03-02 successful');
  t.strictSame(await runs(), ['2026-03-03 2026-03-02 successful']);
  t.strictSame(await objects(), ['2026-03-02.csv']);
});
