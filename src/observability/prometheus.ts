import type { Pool } from 'pg';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { cacheWithTtl } from '../shared/ttl-cache.ts';
import {
  attemptOutcomes,
  downloadOutcomes,
  ingestOutcomes,
  type Metrics,
  type QueueState,
  renderingOutcomes,
} from './metrics.ts';

/** Sources that are read at each scrape. */
export interface MetricSources {
  readonly pools: Readonly<Record<string, Pool>>;
  readonly downloadLimit: ConcurrencyLimit;
  readonly ingestLimit: ConcurrencyLimit;
  /**
   * All codes that a run may end with. A closed set, so that answers of customers' storage cannot
   * create series.
   */
  readonly runErrorCodes: readonly string[];
  /** Queries the database. */
  readonly queueState: () => Promise<QueueState>;
  /** Time in milliseconds for which one database look-up serves all scrapes. Default: 15,000. */
  readonly queueStateKeepMs?: number;
}

/** Metrics in Prometheus form. Only this file uses `prom-client`. */
export interface PrometheusMetrics extends Metrics {
  readonly contentType: string;
  /** Returns all metrics as text. It also succeeds while the database cannot be reached. */
  render(): Promise<string>;
}

/** Longest wait for the database. Prometheus' own scrape timeout is 10 s by default. */
const queueStateTimeoutMs = 2_000;

const requestBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const transferBuckets = [0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200];

export function createPrometheusMetrics(sources: MetricSources): PrometheusMetrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  watchNow(registry, sources);
  const readQueue = cacheWithTtl(sources.queueState, {
    ttlMs: sources.queueStateKeepMs ?? 15_000,
    timeoutMs: queueStateTimeoutMs,
  });
  const lookAtQueue = watchQueue(registry, readQueue);
  return {
    ...countEvents(registry, sources.runErrorCodes),
    contentType: registry.contentType,
    async render() {
      await lookAtQueue();
      return await registry.metrics();
    },
  };
}

/**
 * Counts events since the start of the process. Series of a closed set exist from the start, at 0.
 */
function countEvents(registry: Registry, runErrorCodes: readonly string[]): Metrics {
  const registers = [registry];
  const counter = (name: string, help: string, label?: string, values: readonly string[] = []) => {
    const labelNames = label === undefined ? [] : [label];
    const metric = new Counter({ name, help, labelNames, registers });
    for (const value of values) metric.inc({ [label ?? '']: value }, 0);
    return metric;
  };
  const seconds = (name: string, help: string, outcomes: readonly string[]) => {
    const metric = new Histogram({
      name,
      help,
      labelNames: ['outcome'],
      buckets: transferBuckets,
      registers,
    });
    for (const outcome of outcomes) metric.zero({ outcome });
    return metric;
  };

  const requests = new Histogram({
    name: 'whx_http_request_duration_seconds',
    help: 'Time from the first byte of a request to the last byte of its response.',
    labelNames: ['method', 'route', 'status'],
    buckets: requestBuckets,
    registers,
  });

  const downloads = counter(
    'whx_downloads_total',
    'Downloads by outcome.',
    'outcome',
    downloadOutcomes,
  );
  const downloadBytes = counter(
    'whx_download_bytes_total',
    'Bytes that downloads sent over the connection.',
  );
  const downloadRows = counter('whx_download_rows_total', 'Rows of downloads that completed.');
  const downloadSeconds = seconds(
    'whx_download_duration_seconds',
    'Time from the request of a download to its end. It includes waits for a slow reader.',
    downloadOutcomes,
  );

  const ingests = counter(
    'whx_ingests_total',
    'Ingests of snapshots by outcome.',
    'outcome',
    ingestOutcomes,
  );
  const ingestedBytes = counter(
    'whx_ingest_bytes_total',
    'Bytes of CSV that ingests read, decompressed.',
  );
  const ingestedRows = counter('whx_ingest_rows_total', 'Rows of snapshots that were ingested.');
  const ingestSeconds = seconds(
    'whx_ingest_duration_seconds',
    'Time from the request of an ingest to its end.',
    ingestOutcomes,
  );

  const attempts = counter(
    'whx_run_attempts_total',
    'Attempts at runs of automatic exports by outcome.',
    'outcome',
    attemptOutcomes,
  );
  const runErrors = counter(
    'whx_run_errors_total',
    'Errors of attempts at runs by code, including errors that are retried.',
    'code',
    runErrorCodes,
  );
  const attemptSeconds = seconds(
    'whx_run_attempt_duration_seconds',
    'Duration of attempts at runs.',
    attemptOutcomes,
  );
  const runBytes = counter('whx_run_bytes_total', 'Bytes of the objects that runs wrote.');
  const runRows = counter('whx_run_rows_total', 'Rows of the objects that runs wrote.');
  const runs = new Counter({
    name: 'whx_runs_total',
    help: 'Runs that ended in this process by state, and by error code if they failed.',
    labelNames: ['state', 'code'],
    registers,
  });
  runs.inc({ state: 'successful', code: 'none' }, 0);
  for (const code of runErrorCodes) runs.inc({ state: 'failed', code }, 0);
  const known = new Set(runErrorCodes);
  const closed = (code: string) => (known.has(code) ? code : 'unknown');

  const renderings = counter(
    'whx_renderings_total',
    'Attempts to render a snapshot by outcome.',
    'outcome',
    renderingOutcomes,
  );
  const renderedBytes = counter(
    'whx_rendered_bytes_total',
    'Bytes of CSV of the snapshots that were rendered.',
  );
  const renderingSeconds = seconds(
    'whx_rendering_duration_seconds',
    'Duration of attempts to render a snapshot.',
    renderingOutcomes,
  );

  return {
    requestEnded: ({ method, route, status, seconds }) =>
      requests.observe({ method, route, status }, seconds),
    downloadEnded({ outcome, bytes, rows, seconds }) {
      downloads.inc({ outcome });
      downloadBytes.inc(bytes);
      downloadRows.inc(rows);
      downloadSeconds.observe({ outcome }, seconds);
    },
    ingestEnded({ outcome, bytes, rows, seconds }) {
      ingests.inc({ outcome });
      ingestedBytes.inc(bytes);
      ingestedRows.inc(rows);
      ingestSeconds.observe({ outcome }, seconds);
    },
    attemptEnded({ outcome, code, bytes, rows, seconds }) {
      attempts.inc({ outcome });
      if (code !== null) runErrors.inc({ code: closed(code) });
      runBytes.inc(bytes);
      runRows.inc(rows);
      attemptSeconds.observe({ outcome }, seconds);
    },
    runsEnded(state, code, count = 1) {
      runs.inc({ state, code: code === null ? 'none' : closed(code) }, count);
    },
    renderingEnded({ outcome, bytes, seconds }) {
      renderings.inc({ outcome });
      renderedBytes.inc(bytes);
      renderingSeconds.observe({ outcome }, seconds);
    },
  };
}

/** Registers gauges of connections and transfers of this process. */
function watchNow(registry: Registry, { pools, downloadLimit, ingestLimit }: MetricSources): void {
  const registers = [registry];
  new Gauge({
    name: 'whx_database_connections',
    help: 'Connections of each pool by state, and callers that wait for a connection.',
    labelNames: ['pool', 'state'],
    registers,
    collect() {
      for (const [name, pool] of Object.entries(pools)) {
        this.set({ pool: name, state: 'busy' }, pool.totalCount - pool.idleCount);
        this.set({ pool: name, state: 'idle' }, pool.idleCount);
        this.set({ pool: name, state: 'waiting' }, pool.waitingCount);
      }
    },
  });
  const limits = new Gauge({
    name: 'whx_database_connections_limit',
    help: 'Maximum number of connections of each pool.',
    labelNames: ['pool'],
    registers,
  });
  for (const [name, pool] of Object.entries(pools)) limits.set({ pool: name }, pool.options.max);

  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  gauge('whx_downloads_in_progress', 'Downloads in progress.', () => downloadLimit.active);
  gauge('whx_ingests_in_progress', 'Snapshot ingests in progress.', () => ingestLimit.active);
}

/**
 * Registers gauges of the work that waits in the database. Every process reports the same values.
 * The series are absent while the database cannot be reached.
 * @returns a function that updates the gauges
 */
function watchQueue(
  registry: Registry,
  read: () => Promise<QueueState | null>,
): () => Promise<void> {
  const registers = [registry];
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers });
  const gaugeBy = (label: string, name: string, help: string) =>
    new Gauge({ name, help, labelNames: [label], registers });
  const up = gauge(
    'whx_database_up',
    '1 if the database answered the last query of this process for the queue state, else 0.',
  );
  const jobs = gaugeBy(
    'state',
    'whx_queue_jobs',
    'Jobs of automatic exports: ready to be taken, delayed until their next attempt, or active.',
  );
  const jobAge = gauge(
    'whx_queue_oldest_ready_seconds',
    'Time that the oldest ready job has waited for a worker; 0 if none is ready.',
  );
  const runs = gaugeBy(
    'state',
    'whx_runs_unfinished',
    'Runs that are queued (also those that wait for their snapshot) or running.',
  );
  const late = gaugeBy(
    'waiting_for',
    'whx_slots_late',
    'Enabled configs whose newest slot has no finished run: the snapshot or the run is missing.',
  );
  const lateAge = gaugeBy(
    'waiting_for',
    'whx_slots_late_oldest_seconds',
    'Time since the oldest of these slots; 0 if there is none.',
  );

  const renderings = gauge(
    'whx_renderings_waiting',
    'Snapshots that wait to be rendered or are being rendered.',
  );
  const renderingAge = gauge(
    'whx_renderings_oldest_waiting_seconds',
    'Time that the oldest of these snapshots has waited; 0 if none waits.',
  );

  return async () => {
    const state = await read();
    up.set(state === null ? 0 : 1);
    if (state === null) {
      for (const metric of [jobs, runs, late, lateAge]) metric.reset();
      for (const metric of [jobAge, renderings, renderingAge]) metric.remove();
      return;
    }
    jobs.set({ state: 'ready' }, state.readyJobs);
    jobs.set({ state: 'delayed' }, state.delayedJobs);
    jobs.set({ state: 'active' }, state.activeJobs);
    jobAge.set(state.oldestReadyJobSeconds);
    renderings.set(state.waitingRenderings);
    renderingAge.set(state.oldestWaitingRenderingSeconds);
    runs.set({ state: 'queued' }, state.queuedRuns);
    runs.set({ state: 'running' }, state.runningRuns);
    for (const [waiting_for, found] of [
      ['snapshot', state.lateForSnapshot],
      ['run', state.lateForRun],
    ] as const) {
      late.set({ waiting_for }, found.slots);
      lateAge.set({ waiting_for }, found.oldestSeconds);
    }
  };
}
