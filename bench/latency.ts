import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { insertConfigs } from './insert-configs.ts';
import { median, quantile } from './measure.ts';
import { script } from './processes.ts';
import { renderDay } from './rendering.ts';
import { type Service, startService } from './service.ts';

const perSecond = 60;

/** Names of the requests, in the order of `askOften`. */
const asked = ['status', 'health/ready'];

/**
 * Measures small answers while the service is idle, sends files, or ingests and renders a snapshot.
 */
export async function measureLatency(bench: Bench): Promise<Section> {
  const service = await startService({ ...bench, env: { PROCESS_ROLE: 'all' } });
  await insertConfigs(bench.pool, bench.environmentId, 1);
  const file = dayFile(bench.environmentId);
  const asking = () => askOften(bench, service);
  const downloading = () => whileDownloading(service, file, 4, asking);
  const loads: { name: string; measure: () => Promise<number[][]>; rounds: number[][][] }[] = [
    { name: 'idle', measure: asking, rounds: [] },
    { name: '4 plain downloads', measure: downloading, rounds: [] },
    {
      name: 'one ingest with its rendering',
      measure: () => whileIngesting(bench, service, asking),
      rounds: [],
    },
  ];
  try {
    await renderDay(bench);
    await saveBody(bench, service, file);
    // Writes earlier changes to disk before small requests are measured.
    await bench.pool.query('checkpoint');
    spawnSync('sync');
    // The first downloads of a process compile the measured code.
    for (let time = 0; time < 4; time += 1) await downloading();
    for (let round = 0; round < bench.rounds; round += 1) {
      for (const { measure, rounds } of loads) rounds.push(await measure());
    }
  } finally {
    await bench.pool.query('delete from export_configs where environment_id = $1', [
      bench.environmentId,
    ]);
    await bench.pool.query('delete from environments where id = $1', [ingesting]);
    await bench.pool.query('delete from snapshot_rows where environment_id = $1', [ingesting]);
    await service.stop();
  }
  // The median over rounds ignores a round in which the machine stopped for a tenth of a second.
  const figure = (rounds: readonly number[][][], what: number, share: number) =>
    median(rounds.map(answers => quantile(answers[what] ?? [], share)));
  const idle = figure(loads[0]?.rounds ?? [], 0, 0.99);
  return {
    title: 'Small requests',
    columns: ['', 'requests', 'p50 ms', 'p99 ms', 'p99 of each round'],
    rows: asked.flatMap((name, what) =>
      loads.map(load => [
        `${name}, ${load.name}`,
        String(load.rounds.flatMap(answers => answers[what] ?? []).length),
        ...[0.5, 0.99].map(share => figure(load.rounds, what, share).toFixed(1)),
        load.rounds.map(answers => quantile(answers[what] ?? [], 0.99).toFixed(0)).join(', '),
      ]),
    ),
    goals: loads.slice(1).map(({ name, rounds }) => ({
      text: `p99 of status under ${name} ≤ 3 × idle`,
      kind: 'at most',
      wanted: 3,
      value: figure(rounds, 0, 0.99) / idle,
    })),
    notes: [
      `The conditions take turns, ${bench.rounds} times ${secondsOf(bench)} s each, ${perSecond} requests a second. Each request is sent on time, even if the previous answer ` +
        'is missing. p50 and p99 are medians over the rounds. Four rounds of downloads run before and are not counted.',
    ],
    bars: [],
  };
}

/**
 * Sends small requests.
 *
 * @returns milliseconds of each answer of a config's status and of `/health/ready`
 */
export async function askOften(bench: Bench, service: Service): Promise<number[][]> {
  const urls = [
    `/v1/environments/${bench.environmentId}/export-configs/bench-0/status`,
    '/health/ready',
  ].map(where => service.origin + where);
  const args = [String(secondsOf(bench)), String(perSecond), ...urls];
  return await script<number[][]>('ask-often.ts', args, { TOKEN: service.token });
}

function secondsOf({ rows }: Bench): number {
  return rows >= 100_000 ? 3 : 1;
}

/** Environment whose snapshot is ingested repeatedly. */
const ingesting = 'ingesting';
const bodyFile = ({ directory }: Bench) => path.join(directory, 'ingest.csv');

/** Saves the export as a request body: an exported snapshot can be ingested again. */
async function saveBody(bench: Bench, service: Service, file: string): Promise<void> {
  await service.call(`/v1/environments/${ingesting}`, {
    method: 'PUT',
    json: { name: ingesting, plan: 'pro' },
  });
  const headers = { authorization: `Bearer ${service.token}`, 'accept-encoding': 'identity' };
  const answer = await fetch(service.origin + file, { headers });
  if (!answer.ok || answer.body === null) throw new Error(`${file}: ${answer.status}`);
  await pipeline(answer.body, fs.createWriteStream(bodyFile(bench)));
}

/** Repeats the work until one ingest has ended and its snapshot is rendered. */
async function whileIngesting(
  bench: Bench,
  service: Service,
  work: () => Promise<number[][]>,
): Promise<number[][]> {
  const target = `${service.origin}/v1/environments/${ingesting}/snapshots/${bench.date}`;
  let isIngested = false;
  const ingest = fetch(target, {
    method: 'PUT',
    headers: { authorization: `Bearer ${service.token}`, 'content-type': 'text/csv' },
    body: await fs.openAsBlob(bodyFile(bench)),
  }).then(async answer => {
    if (!answer.ok) throw new Error(`ingest: ${answer.status} ${await answer.text()}`);
    isIngested = true;
  });
  const found: number[][] = [];
  do {
    for (const [what, milliseconds] of (await work()).entries())
      found[what] = [...(found[what] ?? []), ...milliseconds];
  } while (!isIngested || !(await isRendered(bench)));
  await ingest;
  return found;
}

async function isRendered({ pool, date }: Bench): Promise<boolean> {
  const { rowCount } = await pool.query(
    `select from snapshots join rendered_snapshots using (environment_id, version)
     where environment_id = $1 and snapshots.snapshot_date = $2`,
    [ingesting, date],
  );
  return rowCount === 1;
}

/**
 * Runs `work` while readers download. Each starts again after its file. All run in one process that
 * starts before.
 */
export async function whileDownloading<T>(
  service: Service,
  file: string,
  readers: number,
  work: () => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const env = { TOKEN: service.token };
  const args = [service.origin + file, String(readers)];
  const reading = script('read-again.ts', args, env, stop.signal).catch((error: unknown) => {
    if (!stop.signal.aborted) throw error;
  });
  try {
    await delay(500);
    return await work();
  } finally {
    stop.abort();
    await reading;
  }
}
