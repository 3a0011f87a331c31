import t from 'tap';
import {
  describeStatus,
  type RunHistory,
  type UnfinishedRun,
} from '../../src/export-configs/status.ts';

const now = new Date('2026-03-04T15:00:00.000Z');
const earlier = new Date('2026-03-03T00:00:09.000Z');
const later = new Date('2026-03-04T00:00:09.000Z');
const error = { code: 'bucket_not_found', message: 'There is no bucket.' };
const never: RunHistory = {
  current: null,
  last: null,
  lastSuccessfulAt: null,
  lastDeliveredDate: null,
};
const good: RunHistory = {
  current: null,
  lastDeliveredDate: '2026-03-03',
  last: { state: 'successful', finishedAt: later, error: null },
  lastSuccessfulAt: later,
};
const bad: RunHistory = {
  current: null,
  lastDeliveredDate: '2026-03-03',
  last: { state: 'failed', finishedAt: later, error },
  lastSuccessfulAt: earlier,
};
const unfinished: UnfinishedRun = {
  id: 'r',
  trigger: 'schedule',
  snapshotDate: '2026-03-03',
  state: 'running',
  attempts: 1,
  error: null,
  hasJob: true,
  isReady: false,
  startAfter: null,
};
const daily = { enabled: true, schedule: 'daily', turnedOff: null } as const;

t.test('describes a config before its first run', async t => {
  t.strictSame(describeStatus(daily, never, 'enterprise', now), {
    status: 'never ran before',
    running: false,
    lastRunAt: null,
    lastSuccessfulRunAt: null,
    nextRunAt: '2026-03-05T00:00:00.000Z',
    error: null,
    lastDeliveredDate: null,
    currentRun: null,
    turnedOff: null,
  });
  const running = describeStatus(daily, { ...never, current: unfinished }, 'enterprise', now);
  t.match(running, { status: 'never ran before', running: true, lastRunAt: null });
});

t.test('describes a config after a failed and after a successful run', async t => {
  t.strictSame(describeStatus(daily, bad, 'enterprise', now), {
    status: 'failed',
    running: false,
    lastRunAt: later.toISOString(),
    lastSuccessfulRunAt: earlier.toISOString(),
    nextRunAt: '2026-03-05T00:00:00.000Z',
    error,
    lastDeliveredDate: '2026-03-03',
    currentRun: null,
    turnedOff: null,
  });
  t.strictSame(describeStatus(daily, good, 'enterprise', now), {
    status: 'successful',
    running: false,
    lastRunAt: later.toISOString(),
    lastSuccessfulRunAt: later.toISOString(),
    nextRunAt: '2026-03-05T00:00:00.000Z',
    error: null,
    lastDeliveredDate: '2026-03-03',
    currentRun: null,
    turnedOff: null,
  });
});

t.test('describes a config that was turned off after too many failures', async t => {
  const turnedOff = { message: 'No more.', at: later };
  const status = describeStatus({ ...daily, enabled: false, turnedOff }, bad, 'enterprise', now);
  t.match(status, { status: 'failed', nextRunAt: null, error });
  t.strictSame(status.turnedOff, {
    code: 'too_many_failures',
    message: 'No more.',
    at: '2026-03-04T00:00:09.000Z',
  });
});

t.test('computes the next run from schedule, plan and enabled flag', async t => {
  const next = (
    config: Parameters<typeof describeStatus>[0],
    plan: Parameters<typeof describeStatus>[2],
    at = now,
  ) => describeStatus(config, good, plan, at).nextRunAt;
  t.equal(next({ ...daily, schedule: 'weekly' }, 'enterprise'), '2026-03-09T00:00:00.000Z');
  t.equal(
    next(daily, 'enterprise', new Date('2026-03-05T00:00:00.000Z')),
    '2026-03-06T00:00:00.000Z',
  );
  t.equal(
    next({ ...daily, enabled: false }, 'enterprise'),
    null,
    'a disabled config has no next run',
  );
  t.equal(next(daily, 'pro'), null);
  t.equal(next(daily, 'free'), null);
});

t.test('says what an unfinished run waits for', async t => {
  const current = (run: Partial<UnfinishedRun>) =>
    describeStatus(daily, { ...good, current: { ...unfinished, ...run } }, 'enterprise', now)
      .currentRun;
  t.strictSame(current({}), {
    id: 'r',
    trigger: 'schedule',
    snapshotDate: '2026-03-03',
    state: 'running',
    waitingFor: null,
    attempts: 1,
    nextAttemptAt: null,
    error: null,
  });
  const queued = { state: 'queued', attempts: 2, error } as const;
  t.match(current({ ...queued, startAfter: later }), {
    waitingFor: 'retry',
    nextAttemptAt: later.toISOString(),
    error,
  });
  t.match(current(queued), { waitingFor: 'retry', nextAttemptAt: null });
  t.match(current({ ...queued, attempts: 0 }), { waitingFor: 'worker' });
  const ready = current({ ...queued, isReady: true, startAfter: later });
  t.match(ready, { waitingFor: 'worker', nextAttemptAt: null });
  t.match(current({ ...queued, hasJob: false }), { waitingFor: 'snapshot', nextAttemptAt: null });
});
