import { pipeline } from 'node:stream';
import { createGzip } from 'node:zlib';
import { type ApiClient, ApiError, callApi, jsonContent } from './api-client.ts';
import { snapshotCsv } from './generate-snapshots.ts';
import { type Story, snapshotDates, snapshotInstant } from './story.ts';

/** Number of snapshots sent at the same time. The service accepts two for one environment. */
const parallelLoads = 2;

export interface Environment {
  readonly id: string;
  readonly name: string;
  readonly plan: string;
}

export interface LoadOptions {
  readonly client: ApiClient;
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
  const path = `/environments/${environment.id}`;
  try {
    await callApi(client, { method: 'GET', path, signal });
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) throw error;
    const { name, plan } = environment;
    await callApi(client, { method: 'PUT', path, content: jsonContent({ name, plan }), signal });
  }
}

/**
 * Sends one snapshot.
 *
 * @returns the number of rows that the service counted
 */
async function putSnapshot(
  options: LoadOptions,
  date: string,
  signal: AbortSignal,
): Promise<number> {
  const answer = await callApi(options.client, {
    method: 'PUT',
    path: `/environments/${options.environment.id}/snapshots/${date}`,
    content: {
      type: 'text/csv',
      encoding: 'gzip',
      body: () => {
        const csv = snapshotCsv(options.story, snapshotInstant(date, options.now));
        // The reader of the compressed stream receives every error; pipeline needs a callback.
        return pipeline(csv, createGzip({ level: 1 }), () => {});
      },
    },
    signal,
  });
  return (answer as { rowCount: number }).rowCount;
}
