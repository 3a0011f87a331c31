import t, { type Test } from 'tap';
import { tickQueue } from '../../src/db/job-queue.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { makeConfig, startExportApp, startExportWorker } from '../helpers/export-configs.ts';
import { contentsOf, needsS3, s3Destination } from '../helpers/s3.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** The clock of a worker jumps by a day and back. 2026-03-02 is a Monday. */

t.setTimeout(400_000);

async function start(t: Test) {
  const app = await startExportApp(t, { now: '2026-03-02T10:00:00.000Z' });
  await app.putEnvironment('acme');
  const { id, key } = await makeConfig(app, 'acme');
  const ingest = async (date: string) => {
    const answer = await app.ingest('acme', date, ingestBody([adoptionRow({ companyId: date })]));
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
  /** Sets the clock, makes the workers tick and waits until `newest` describes the newest run. */
  const at = async (instant: string, newest: string) => {
    app.setNow(instant);
    await waitFor(
      `the newest run ${newest}`,
      async () => {
        await app.dependencies.jobs.send(tickQueue);
        return (await runs())[0] ?? 'none';
      },
      { isWanted: found => found === newest, limitMs: 60_000 },
    );
  };
  const objects = async () =>
    (await contentsOf(s3Destination({ key }))).objects.map(name => name.replace(/.*_acme_/, ''));
  return { app, ingest, runs, at, objects };
}
t.test('runs every slot once when the clock jumps forward by a day and back', needsS3, async t => {
  const { ingest, runs, at, objects } = await start(t);
  await at('2026-03-02T10:01:00Z', 'none');
  await ingest('2026-03-02');
  // The clock runs ahead: the slot is run with the snapshot of the unfinished day.
  await at('2026-03-03T10:01:00Z', '2026-03-03 2026-03-02 successful');
  await at('2026-03-02T10:02:00Z', '2026-03-03 2026-03-02 successful');
  await at('2026-03-03T00:00:00Z', '2026-03-03 2026-03-02 successful');
  await ingest('2026-03-03');
  await at('2026-03-04T00:00:00Z', '2026-03-04 2026-03-03 successful');
  t.strictSame(await runs(), [
    '2026-03-04 2026-03-03 successful',
    '2026-03-03 2026-03-02 successful',
  ]);
  t.strictSame(await objects(), ['2026-03-02.csv', '2026-03-03.csv']);
});

t.test(
  'neither repeats nor skips a slot when the clock jumps back by a day and forward',
  needsS3,
  async t => {
    const { ingest, runs, at, objects } = await start(t);
    await ingest('2026-03-02');
    await at('2026-03-03T00:00:01Z', '2026-03-03 2026-03-02 successful');
    await at('2026-03-02T00:00:01Z', '2026-03-03 2026-03-02 successful');
    await at('2026-03-01T23:00:00Z', '2026-03-03 2026-03-02 successful');
    await at('2026-03-03T00:00:02Z', '2026-03-03 2026-03-02 successful');
    await ingest('2026-03-03');
    await at('2026-03-04T00:00:00Z', '2026-03-04 2026-03-03 successful');
    t.equal((await runs()).length, 2);
    t.strictSame(await objects(), ['2026-03-02.csv', '2026-03-03.csv']);
  },
);

t.test(
  'fails a run without a snapshot when the clock jumps forward by a day and back',
  needsS3,
  async t => {
    const { app, ingest, runs, at, objects } = await start(t);
    await at('2026-03-03T00:00:10Z', '2026-03-03 2026-03-02 queued');
    // At this time the next slot is due, so the waiting run fails.
    await at('2026-03-04T00:00:10Z', '2026-03-04 2026-03-03 queued');
    app.setNow('2026-03-03T00:00:20Z');
    await ingest('2026-03-02');
    app.setNow('2026-03-04T00:00:15Z');
    await ingest('2026-03-03');
    await at('2026-03-04T00:00:20Z', '2026-03-04 2026-03-03 successful');
    t.strictSame(await runs(), [
      '2026-03-04 2026-03-03 successful',
      '2026-03-03 2026-03-02 failed snapshot_missing',
    ]);
    t.strictSame(await objects(), ['2026-03-03.csv']);
  },
);

t.test('runs every slot once when the clocks of two workers differ by a day', needsS3, async t => {
  const { app, ingest, runs, at, objects } = await start(t);
  await ingest('2026-03-02');
  // Any worker may take each tick, in any order.
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
