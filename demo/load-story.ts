import { pipeline } from 'node:stream';
import { createGzip } from 'node:zlib';
import { ApiError, type Client, type Plan, retryWhenBusy } from '@warehouse-export/client';
import { snapshotCsv } from './generate-snapshots.ts';
import { type Story, snapshotDates, snapshotInstant } from './story.ts';

/** Number of snapshots sent at the same time. The service accepts two for one environment. */
const parallelLoads = 2;

export interface Environment {
  readonly id: string;
  readonly name: string;
  readonly plan: Plan;
}

export interface LoadOptions {
  readonly client: Client;
  readonly environment: Environment;
  readonly story: Story;
  readonly now: Date;
  readonly signal: AbortSignal;
  /** Called after each snapshot with the totals so far. */
  readonly onProgress: (progress: LoadProgress) => void;
}

export interface LoadProgress {
  readonly date: string;
  readonly snapshots: number;
  readonly totalSnapshots: number;
  readonly rows: number;
}

/**
 * Creates the environment if it does not exist, and sends the whole story through the public API.
 * Sends the oldest day first. Sends the newest snapshot last and alone, so that it marks the end.
 *
 * @throws {ApiError} if a snapshot is refused; other uploads are aborted
 */
export async function loadStory(options: LoadOptions): Promise<LoadProgress> {
  const { story } = options;
  const failure = new AbortController();
  const signal = AbortSignal.any([options.signal, failure.signal]);

  await createEnvironment(options, signal);

  const dates = snapshotDates(story);
  const closed = dates.slice(0, -1);
  let progress: LoadProgress = { date: '', snapshots: 0, totalSnapshots: dates.length, rows: 0 };
  const load = async (date: string) => {
    const rows = await putSnapshot(options, date, signal);
    progress = { ...progress, date, snapshots: progress.snapshots + 1, rows: progress.rows + rows };
    options.onProgress(progress);
  };

  const queue = closed.values();
  const work = async () => {
    for (const date of queue) await load(date);
  };
  const workers = Array.from({ length: parallelLoads }, work);
  try {
    await Promise.all(workers);
  } catch (error) {
    failure.abort();
    await Promise.allSettled(workers);
    throw error;
  }
  for (const date of dates.slice(-1)) await load(date);
  return progress;
}

/** Creates the environment. An existing environment keeps its name, plan and webhook. */
async function createEnvironment(options: LoadOptions, signal: AbortSignal): Promise<void> {
  const { client, environment } = options;
  const { id, name, plan } = environment;
  const path = { environmentId: id };
  try {
    await retryWhenBusy(() => client.api.getEnvironment({ path, signal }), { signal });
  } catch (error) {
    if (!(error instanceof ApiError && error.problem.code === 'not_found')) throw error;
    await client.api.putEnvironment({ path, body: { name, plan }, signal });
  }
}

/**
 * Sends one snapshot.
 *
 * @returns the number of rows that the service counted
 */
async function putSnapshot(
  { client, environment, story, now }: LoadOptions,
  date: string,
  signal: AbortSignal,
): Promise<number> {
  const upload = () => {
    const csv = snapshotCsv(story, snapshotInstant(date, now));
    return client.uploadSnapshot({
      environmentId: environment.id,
      date,
      // The reader of the compressed stream receives every error; pipeline needs a callback.
      body: pipeline(csv, createGzip({ level: 1 }), () => {}),
      contentEncoding: 'gzip',
      signal,
    });
  };
  const codes = ['rate_limited', 'unavailable'] as const;
  const { rowCount } = await retryWhenBusy(upload, { attempts: 3, codes, signal });
  return rowCount;
}
