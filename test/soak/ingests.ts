import { gzipSync } from 'node:zlib';
import { waitFor } from '../helpers/wait-for.ts';
import { bodyOf, type Content } from './contents.ts';
import type { Random } from './random.ts';
import { type ProcessName, throughOutages, type World } from './world.ts';

const daysBack = 45;
let contents = 0;

/**
 * Number of newest days whose snapshots are never deleted: runs of their slots may still be
 * running.
 */
const keptDays = 3;

export function newContent(random: Random, isLarge: boolean): Content {
  contents += 1;
  if (isLarge) return { id: contents, rowCount: 5_000 + random.integer(2_000), nameBytes: 2_000 };
  return { id: contents, rowCount: random.integer(400), nameBytes: 2 * random.integer(40) };
}

/**
 * Ingests or replaces the snapshot of a random day. Some bodies end early or contain an invalid
 * row.
 */
export async function ingestSomeDay(
  world: World,
  random: Random,
  caller: { api: ProcessName; environmentId: string; isLarge: boolean },
): Promise<void> {
  const { api, environmentId, isLarge } = caller;
  const date = dayBefore(world.today(), isLarge ? random.integer(3) : random.integer(daysBack));
  const content = newContent(random, isLarge);
  const kind = random.pickWeighted([
    [6, 'plain'],
    [2, 'gzip'],
    [1, 'row at fault'],
    [1, 'breaks off'],
  ] as const);
  if (kind === 'plain' || kind === 'gzip') {
    await ingest(world, api, { environmentId, date, content, gzip: kind === 'gzip' });
    return;
  }
  const body = bodyOf(content);
  const path = `/v1/environments/${environmentId}/snapshots/${date}`;
  const headers = { 'content-type': 'text/csv' };
  const broken = kind === 'row at fault' ? `${body}c,,f` : body;
  const announced =
    kind === 'row at fault' ? {} : { 'content-length': String(Buffer.byteLength(body) + 1_000) };
  const answer = await world
    .call(api, path, {
      method: 'PUT',
      headers: { ...headers, ...announced },
      body: broken,
      signal: AbortSignal.timeout(kind === 'row at fault' ? 60_000 : 300 + random.integer(700)),
    })
    .catch(() => null);
  world.counts['failed ingests'] += 1;
  if (answer !== null && answer.status < 400) {
    world.faults.push(`an ingest with the fault "${kind}" was answered ${answer.status}`);
  }
}

/** Returns true if the service confirmed the ingest. */
export async function ingest(
  world: World,
  api: ProcessName,
  wanted: { environmentId: string; date: string; content: Content; gzip?: boolean },
): Promise<boolean> {
  const { environmentId, date, content, gzip = false } = wanted;
  const write = world.model.begin(environmentId, date, content);
  if (write === null) return false;
  world.counts.ingests += 1;
  const body = bodyOf(content);
  const status = await world
    .call(api, `/v1/environments/${environmentId}/snapshots/${date}`, {
      method: 'PUT',
      headers: { 'content-type': 'text/csv', ...(gzip ? { 'content-encoding': 'gzip' } : {}) },
      body: gzip ? gzipSync(body) : body,
    })
    .then(
      answer => {
        if (answer.status < 300 && answer.json.rowCount !== content.rowCount) {
          world.faults.push(`${content.rowCount} rows were sent, ${answer.text}`);
        }
        return answer.status;
      },
      () => null,
    );
  if (status === 200 || status === 201) write.settle('done');
  // The connection may break after the commit.
  else write.settle(status === null || status === 503 ? 'unknown' : 'refused');
  if (status !== null && ![200, 201, 409, 429, 503].includes(status)) {
    world.faults.push(`a valid ingest was answered ${status}`);
  }
  return status === 200 || status === 201;
}

/** Repeats the ingest until the service confirms it. */
export async function ingestSurely(
  world: World,
  random: Random,
  wanted: { environmentId: string; date: string; isLarge: boolean },
): Promise<void> {
  const ingestAgain = () =>
    ingest(world, 'elder api', { ...wanted, content: newContent(random, wanted.isLarge) });
  await waitFor(`an ingest of ${wanted.environmentId} ${wanted.date}`, ingestAgain, {
    ...throughOutages,
    isWanted: Boolean,
  });
}

export async function deleteSomeDay(
  world: World,
  random: Random,
  caller: { api: ProcessName; environmentId: string },
): Promise<void> {
  const date = dayBefore(world.today(), keptDays + random.integer(daysBack));
  const write = world.model.begin(caller.environmentId, date, null);
  if (write === null) return;
  const status = await world
    .call(caller.api, `/v1/environments/${caller.environmentId}/snapshots/${date}`, {
      method: 'DELETE',
    })
    .then(
      answer => answer.status,
      () => null,
    );
  if (status === 204) write.settle('done');
  else write.settle(status === null || status === 503 ? 'unknown' : 'refused');
}

export function dayBefore(date: string, days: number): string {
  return new Date(Date.parse(date) - days * 86_400_000).toISOString().slice(0, 10);
}
