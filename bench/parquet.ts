import { type Bench, formatNumber, type Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { insertConfigs } from './insert-configs.ts';
import { askOften, whileDownloading } from './latency.ts';
import { median, quantile } from './measure.ts';
import { download } from './processes.ts';
import { renderDay } from './rendering.ts';
import { startService } from './service.ts';

/** Interval in milliseconds of the samples of resident memory. */
const sampleMs = 50;

/** Measures Parquet downloads: speed, CPU time, memory, and small requests meanwhile. */
export async function measureParquet(bench: Bench): Promise<Section> {
  const service = await startService(bench);
  const file = dayFile(bench.environmentId).replace(/\.csv$/, '.parquet');
  await insertConfigs(bench.pool, bench.environmentId, 1);
  const seconds: number[] = [];
  const cpu: number[] = [];
  const idle: number[] = [];
  const busy: number[] = [];
  let bytes = 0;
  let residentMiB = 0;
  const p99 = (answers: readonly number[][]) => quantile(answers[0] ?? [], 0.99);
  const sample = () => {
    residentMiB = Math.max(residentMiB, service.residentMiB());
  };
  try {
    await renderDay(bench);
    const residentBefore = service.residentMiB();
    await download(service, file);
    for (let round = 0; round < bench.rounds; round += 1) {
      const cpuBefore = service.cpuSeconds();
      const timer = setInterval(sample, sampleMs);
      const read = await download(service, file);
      clearInterval(timer);
      seconds.push(read.seconds);
      cpu.push(service.cpuSeconds() - cpuBefore);
      bytes = read.bytes;
      idle.push(p99(await askOften(bench, service)));
      busy.push(p99(await whileDownloading(service, file, 1, () => askOften(bench, service))));
    }
    const rate = bench.rows / median(seconds);
    const perRow = (total: number) => ((total * 1e6) / bench.rows).toFixed(1);
    return {
      title: `Parquet of ${bench.rows.toLocaleString('en')} rows`,
      columns: ['', 'value'],
      rows: [
        ['seconds', median(seconds).toFixed(3)],
        ['rows/s', formatNumber(rate)],
        ['CPU time of the service per row, µs', perRow(median(cpu))],
        ['bytes per row', (bytes / bench.rows).toFixed(1)],
        ['resident memory before the first download, MiB', residentBefore.toFixed(0)],
        ['resident memory at most, MiB', residentMiB.toFixed(0)],
        ['p99 of status, idle, ms', median(idle).toFixed(1)],
        ['p99 of status during a download, ms', median(busy).toFixed(1)],
      ],
      goals: [
        {
          text: 'p99 of status during a Parquet download ≤ 3 × idle',
          kind: 'at most',
          wanted: 3,
          value: median(busy) / median(idle),
        },
      ],
      notes: ['The rows are rendered. One download runs before and is not counted.'],
      bars: [{ name: 'service, Parquet', rowsPerSecond: rate }],
    };
  } finally {
    await bench.pool.query('delete from export_configs where environment_id = $1', [
      bench.environmentId,
    ]);
    await service.stop();
  }
}
