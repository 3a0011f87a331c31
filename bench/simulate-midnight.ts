/**
 * Simulates the night's runs of many environments event by event, from measured costs
 * (docs/scaling.md).
 *
 *   node bench/simulate-midnight.ts [--environments 100000] [--seed 1] [--unrendered 0.1] …
 */
import { parseArgs } from 'node:util';
import { quantile } from './measure.ts';

const { values } = parseArgs({
  options: {
    environments: { type: 'string', default: '100000' },
    seed: { type: 'string', default: '1' },
    /** Share of snapshots without a rendering at midnight. Their run renders them first. */
    unrendered: { type: 'string', default: '0' },
    /** Rendering: the database reads and sorts rows, the worker compresses them. */
    'database-render-row-us': { type: 'string', default: '4.9' },
    'worker-render-row-us': { type: 'string', default: '5.5' },
    /** A rendered export: the database reads chunks, the worker sends them plain. */
    'database-row-us': { type: 'string', default: '0.3' },
    'worker-row-us': { type: 'string', default: '3.7' },
    'database-run-ms': { type: 'string', default: '28' },
    'worker-run-ms': { type: 'string', default: '32' },
    /** Waiting for requests to the bucket. It overlaps with reading for large files. */
    'storage-run-ms': { type: 'string', default: '120' },
    'tick-us': { type: 'string', default: '60' },
    /** Time of the primary to give out one job, independent of the number of workers. */
    'fetch-ms': { type: 'string', default: '1.5' },
  },
});
const number = (name: keyof typeof values) => Number(values[name]);

interface Job {
  readonly rows: number;
  readonly isRendered: boolean;
}

interface Setup {
  /** Number of processes. Each has one core and 4 runs at a time. */
  readonly workers: number;
  /** Cores of the database that exports read, summed over replicas. */
  readonly databaseCores: number;
}

interface Outcome {
  /** Seconds after midnight. */
  readonly lastAt: number;
  readonly p50: number;
  readonly p99: number;
  /** Instant at which the last file of fewer than 10,000 rows arrived. */
  readonly lastSmallAt: number;
  readonly workersBusy: number;
  readonly databaseBusy: number;
}

const runsPerWorker = 4;

const random = mulberry(number('seed'));
const jobs = mixedSizes(number('environments'));
const rows = jobs.reduce((sum, job) => sum + job.rows, 0);
console.log(
  `${jobs.length.toLocaleString('en')} environments, one run each: ${rows.toLocaleString('en')} rows; median ${Math.round(
    quantile(
      jobs.map(job => job.rows),
      0.5,
    ),
  ).toLocaleString('en')}, largest ${Math.max(...jobs.map(job => job.rows)).toLocaleString('en')}`,
);
const databaseSeconds = jobs.reduce((sum, job) => sum + databaseSecondsOf(job), 0);
const workerSeconds = jobs.reduce((sum, job) => sum + workerSecondsOf(job), 0);
console.log(
  `By the formula: ${databaseSeconds.toFixed(0)} core-seconds of the database, ${workerSeconds.toFixed(0)} of workers; ` +
    `for 01:00 at 70 % use ${Math.ceil(databaseSeconds / 3600 / 0.7)} and ${Math.ceil(workerSeconds / 3600 / 0.7)} cores\n`,
);
console.log(
  'workers  database cores    50 %     99 %   last small      last   workers busy  database busy',
);
for (const setup of [
  { workers: 1, databaseCores: 2 },
  { workers: 2, databaseCores: 2 },
  { workers: 2, databaseCores: 4 },
  { workers: 4, databaseCores: 4 },
  { workers: 8, databaseCores: 4 },
  { workers: 8, databaseCores: 8 },
  { workers: 16, databaseCores: 16 },
]) {
  const { p50, p99, lastSmallAt, lastAt, workersBusy, databaseBusy } = simulate(jobs, setup);
  const cells = [
    String(setup.workers).padStart(7),
    String(setup.databaseCores).padStart(14),
    ...[p50, p99, lastSmallAt, lastAt].map((at, index) => clock(at).padStart(index === 2 ? 11 : 8)),
    `${(workersBusy * 100).toFixed(0)} %`.padStart(13),
    `${(databaseBusy * 100).toFixed(0)} %`.padStart(13),
  ];
  console.log(cells.join(' '));
}

/** Returns log-normal sizes over four powers of ten: most are small, a few are huge. */
function mixedSizes(count: number): Job[] {
  return Array.from({ length: count }, () => {
    const spread = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    return {
      rows: Math.min(8_000_000, Math.round(1_500 * Math.exp(1.9 * spread))),
      isRendered: random() >= number('unrendered'),
    };
  });
}

function databaseSecondsOf({ rows, isRendered }: Job): number {
  const rowUs = number('database-row-us') + (isRendered ? 0 : number('database-render-row-us'));
  return rows * rowUs * 1e-6 + number('database-run-ms') * 1e-3;
}

function workerSecondsOf({ rows, isRendered }: Job): number {
  const rowUs = number('worker-row-us') + (isRendered ? 0 : number('worker-render-row-us'));
  return rows * rowUs * 1e-6 + number('worker-run-ms') * 1e-3;
}

/**
 * Simulates one night. Each run gets its share of its worker and of the database, at most one core
 * of each. Time moves from one start or end of a run to the next.
 */
function simulate(queue: readonly Job[], { workers, databaseCores }: Setup): Outcome {
  interface Running {
    readonly job: Job;
    readonly worker: number;
    /** Core-seconds that remain, and the wait for the bucket after them. */
    databaseLeft: number;
    workerLeft: number;
    waitLeft: number;
  }
  const running: Running[] = [];
  const perWorker = new Array<number>(workers).fill(0);
  const finishedAt: number[] = [];
  let lastSmallAt = 0;
  let now = queue.length * number('tick-us') * 1e-6;
  let next = 0;
  let fetchFreeAt = now;
  let workersBusy = 0;
  let databaseBusy = 0;

  while (next < queue.length || running.length > 0) {
    const worker = perWorker.findIndex(count => count < runsPerWorker);
    if (next < queue.length && worker !== -1 && fetchFreeAt <= now) {
      const job = queue[next] as Job;
      next += 1;
      fetchFreeAt = now + number('fetch-ms') * 1e-3;
      perWorker[worker] = (perWorker[worker] ?? 0) + 1;
      running.push({
        job,
        worker,
        databaseLeft: databaseSecondsOf(job),
        workerLeft: workerSecondsOf(job),
        waitLeft: number('storage-run-ms') * 1e-3,
      });
      continue;
    }
    const onDatabase = running.filter(run => run.databaseLeft > 0).length;
    const databaseShare = Math.min(1, databaseCores / Math.max(1, onDatabase));
    const onWorker = new Array<number>(workers).fill(0);
    for (const run of running)
      if (run.workerLeft > 0) onWorker[run.worker] = (onWorker[run.worker] ?? 0) + 1;
    const workerShare = (run: Running) => 1 / Math.max(1, onWorker[run.worker] ?? 1);
    const untilNext = (run: Running) => {
      const times = [
        ...(run.databaseLeft > 0 ? [run.databaseLeft / databaseShare] : []),
        ...(run.workerLeft > 0 ? [run.workerLeft / workerShare(run)] : []),
      ];
      return times.length > 0 ? Math.min(...times) : run.waitLeft;
    };
    let step = Number.POSITIVE_INFINITY;
    for (const run of running) step = Math.min(step, untilNext(run));
    if (next < queue.length && worker !== -1) step = Math.min(step, fetchFreeAt - now);
    now += step;
    databaseBusy += step * onDatabase * databaseShare;
    workersBusy += step * onWorker.filter(count => count > 0).length;
    for (let index = running.length - 1; index >= 0; index -= 1) {
      const run = running[index] as Running;
      const isWorking = run.databaseLeft > 0 || run.workerLeft > 0;
      const share = workerShare(run);
      if (run.databaseLeft > 0) run.databaseLeft = settle(run.databaseLeft - step * databaseShare);
      if (run.workerLeft > 0) run.workerLeft = settle(run.workerLeft - step * share);
      if (!isWorking) run.waitLeft = settle(run.waitLeft - step);
      if (run.databaseLeft > 0 || run.workerLeft > 0 || run.waitLeft > 0) continue;
      running.splice(index, 1);
      perWorker[run.worker] = (perWorker[run.worker] ?? 0) - 1;
      finishedAt.push(now);
      if (run.job.rows < 10_000) lastSmallAt = now;
    }
  }
  return {
    lastAt: now,
    p50: quantile(finishedAt, 0.5),
    p99: quantile(finishedAt, 0.99),
    lastSmallAt,
    workersBusy: workersBusy / (now * workers),
    databaseBusy: databaseBusy / (now * databaseCores),
  };
}

/** Treats the remains of rounding as zero. */
function settle(left: number): number {
  return left < 1e-9 ? 0 : left;
}

function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  return [3600, 60, 1]
    .map((unit, index) =>
      String(Math.floor(whole / unit) % (index === 0 ? 100 : 60)).padStart(2, '0'),
    )
    .join(':');
}

/** Returns a random number generator that gives the same numbers for the same seed. */
function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
