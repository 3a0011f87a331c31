import { spawnSync } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { insertConfigs } from './insert-configs.ts';
import { median, quantile } from './measure.ts';
import { download, script } from './processes.ts';
import { type Service, startService } from './service.ts';

const perSecond = 60;

/** What is asked for, in the order of `ask`. */
const asked = ['status', 'health/ready'];

/** How fast small answers come, idle and while 4 downloads run one after the other, of what is kept and of what is not. */
export async function measureLatency(bench: Bench): Promise<Section> {
  const keeping = await startService(bench);
  const rendering = await startService({ ...bench, env: { PART_STORE_MB: '0' } });
  await insertConfigs(bench.pool, bench.environmentId, 1);
  const file = dayFile(bench.environmentId);
  const loads: { name: string; measure: () => Promise<number[][]>; rounds: number[][][] }[] = [
    { name: 'idle', measure: () => ask(bench, rendering), rounds: [] },
    {
      name: '4 repeated downloads',
      measure: () => whileDownloading(keeping, file, () => ask(bench, keeping)),
      rounds: [],
    },
    {
      name: '4 cold downloads',
      measure: () => whileDownloading(rendering, file, () => ask(bench, rendering)),
      rounds: [],
    },
  ];
  try {
    // What was written before is on the disk, and nothing is left to write while it is measured.
    await bench.pool.query('checkpoint');
    spawnSync('sync');
    // Renders the part that is repeated, and compiles what is measured: the first downloads of a process hold up more.
    await download(keeping, file);
    await ask(bench, keeping);
    for (let time = 0; time < 4; time += 1)
      await whileDownloading(rendering, file, () => ask(bench, rendering));
    for (let round = 0; round < bench.rounds; round += 1) {
      for (const { measure, rounds } of loads) rounds.push(await measure());
    }
  } finally {
    await bench.pool.query('delete from export_configs where environment_id = $1', [
      bench.environmentId,
    ]);
    await keeping.stop();
    await rendering.stop();
  }
  // The machine that is taken away for a tenth of a second spoils the round it happens in, not the figure.
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
      `In turns, ${bench.rounds} times ${secondsOf(bench)} s each, ${perSecond} requests a second, sent on time whether or not the one ` +
        'before was answered; p50 and p99 are medians of the rounds’. Cold: no part is kept, so each download is rendered; ' +
        'four rounds of them came before and are not counted.',
    ],
    bars: [],
  };
}

/** @returns milliseconds of each answer: of a config's status, of `/health/ready` */
async function ask(bench: Bench, service: Service): Promise<number[][]> {
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

/** Four readers who begin again as soon as they have their file, all in one process that has started before. */
async function whileDownloading<T>(
  service: Service,
  file: string,
  work: () => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const env = { TOKEN: service.token };
  const readers = script('read-again.ts', [service.origin + file, '4'], env, stop.signal).catch(
    (error: unknown) => {
      if (!stop.signal.aborted) throw error;
    },
  );
  try {
    await delay(500);
    return await work();
  } finally {
    stop.abort();
    await readers;
  }
}
