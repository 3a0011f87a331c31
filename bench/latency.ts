import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { insertConfigs } from './insert-configs.ts';
import { quantile } from './measure.ts';
import { script } from './processes.ts';
import { type Service, startService } from './service.ts';

const perSecond = 30;

/** How fast small answers come, idle and while 4 downloads run one after the other; parts are rendered each time. */
export async function measureLatency(bench: Bench): Promise<Section> {
  const service = await startService({ ...bench, env: { PART_STORE_MB: '0' } });
  const seconds = bench.rows >= 100_000 ? 20 : 2;
  await insertConfigs(bench.pool, bench.environmentId, 1);
  const urls = [`/v1/environments/${bench.environmentId}/export-configs/bench-0/status`, '/health/ready'].map(
    where => service.origin + where,
  );
  const ask = async () =>
    await script<number[][]>('ask-often.ts', [String(seconds), String(perSecond), ...urls], {
      TOKEN: service.token,
    });
  try {
    await ask();
    const idle = await ask();
    const loaded = await whileDownloading(service, dayFile(bench.environmentId), ask);
    const row = (name: string, index: number, times: number[][]) => {
      const list = times[index] ?? [];
      return [name, String(list.length), quantile(list, 0.5).toFixed(1), quantile(list, 0.99).toFixed(1)];
    };
    return {
      title: 'Small requests',
      columns: ['', 'requests', 'p50 ms', 'p99 ms'],
      rows: [
        row('status, idle', 0, idle),
        row('status, 4 downloads', 0, loaded),
        row('health/ready, idle', 1, idle),
        row('health/ready, 4 downloads', 1, loaded),
      ],
      goals: [
        {
          text: 'p99 of status under 4 downloads ≤ 3 × idle',
          kind: 'at most',
          wanted: 3,
          value: quantile(loaded[0] ?? [], 0.99) / quantile(idle[0] ?? [], 0.99),
        },
      ],
      notes: [
        `${perSecond} requests a second for ${seconds} s, sent on time whether or not the one before was answered.`,
      ],
      bars: [],
    };
  } finally {
    await bench.pool.query('delete from export_configs where environment_id = $1', [bench.environmentId]);
    await service.stop();
  }
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
