import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { insertConfigs } from './insert-configs.ts';
import { quantile } from './measure.ts';
import { download, script } from './processes.ts';
import { type Service, startService } from './service.ts';

const perSecond = 30;

/** How fast small answers come, idle and while 4 downloads run one after the other, of what is kept and of what is not. */
export async function measureLatency(bench: Bench): Promise<Section> {
  const keeping = await startService(bench);
  const rendering = await startService({ ...bench, env: { PART_STORE_MB: '0' } });
  await insertConfigs(bench.pool, bench.environmentId, 1);
  const file = dayFile(bench.environmentId);
  try {
    // Renders the part that is repeated, and compiles what is asked for.
    await download(keeping, file);
    await Promise.all([keeping, rendering].map(service => ask(bench, service, secondsOf(bench) / 4)));
    const loads: [name: string, milliseconds: number[][]][] = [
      ['idle', await ask(bench, rendering)],
      ['4 repeated downloads', await whileDownloading(keeping, file, () => ask(bench, keeping))],
      ['4 cold downloads', await whileDownloading(rendering, file, () => ask(bench, rendering))],
    ];
    const idle = loads[0]?.[1][0] ?? [];
    return {
      title: 'Small requests',
      columns: ['', 'requests', 'p50 ms', 'p99 ms'],
      rows: ['status', 'health/ready'].flatMap((what, index) =>
        loads.map(([name, milliseconds]) => {
          const list = milliseconds[index] ?? [];
          const quantiles = [0.5, 0.99].map(share => quantile(list, share).toFixed(1));
          return [`${what}, ${name}`, String(list.length), ...quantiles];
        }),
      ),
      goals: loads.slice(1).map(([name, milliseconds]) => ({
        text: `p99 of status under ${name} ≤ 3 × idle`,
        kind: 'at most',
        wanted: 3,
        value: quantile(milliseconds[0] ?? [], 0.99) / quantile(idle, 0.99),
      })),
      notes: [
        `${perSecond} requests a second for ${secondsOf(bench)} s, sent on time whether or not the one before was answered. ` +
          'Cold: no part is kept, so each download is rendered.',
      ],
      bars: [],
    };
  } finally {
    await bench.pool.query('delete from export_configs where environment_id = $1', [bench.environmentId]);
    await keeping.stop();
    await rendering.stop();
  }
}

/** @returns milliseconds of each answer: of a config's status, of `/health/ready` */
async function ask(bench: Bench, service: Service, seconds = secondsOf(bench)): Promise<number[][]> {
  const urls = [`/v1/environments/${bench.environmentId}/export-configs/bench-0/status`, '/health/ready'].map(
    where => service.origin + where,
  );
  const args = [String(seconds), String(perSecond), ...urls];
  return await script<number[][]>('ask-often.ts', args, { TOKEN: service.token });
}

function secondsOf({ rows }: Bench): number {
  return rows >= 100_000 ? 20 : 2;
}

/** Four readers who begin again as soon as they have their file, all in one process that has started before. */
async function whileDownloading<T>(service: Service, file: string, work: () => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const env = { TOKEN: service.token };
  const readers = script('read-again.ts', [service.origin + file, '4'], env, stop.signal).catch(
    (error: unknown) => {
      if (!stop.signal.aborted) throw error;
    },
  );
  try {
    await delay(2_000);
    return await work();
  } finally {
    stop.abort();
    await readers;
  }
}
