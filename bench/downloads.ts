import { baselineName, copyToPipe, cursorAndFastCsv } from './baselines.ts';
import { type Bench, formatNumber, type Section } from './bench.ts';
import { alternate, type Contender, median, type Times } from './measure.ts';
import { download } from './processes.ts';
import { forgetRendering, renderDay, sizesOnDisk } from './rendering.ts';
import { type Service, startService } from './service.ts';

/**
 * Returns the path of an export that contains only the closed day. The other 29 days have no
 * snapshot.
 */
export const dayFile = (environmentId: string) =>
  `/v1/environments/${environmentId}/exports/30-days-daily.csv`;

const names = {
  cursor: 'cursor + fast-csv',
  plain: 'service, plain',
  gzip: 'service, gzip',
  unrendered: 'service, not rendered yet, plain',
  unrenderedGzip: 'service, not rendered yet, gzip',
} as const;

/**
 * Measures downloads. Compares them with the limit of a row-by-row export and with the usual
 * solution.
 */
export async function measureDownloads(bench: Bench): Promise<Section> {
  const service = await startService(bench);
  const file = dayFile(bench.environmentId);
  const read = (from: Service, encoding: 'identity' | 'gzip') => async () =>
    (await download(from, file, { encoding })).seconds;
  const renderings: number[] = [];
  const forget = () => forgetRendering(bench);
  const render = async () => {
    renderings.push(await renderDay(bench));
    await bench.pool.query('checkpoint');
  };
  const baseline = baselineName(bench);
  const contenders: Contender[] = [
    { name: baseline, prepare: forget, run: () => copyToPipe(bench) },
    { name: names.unrendered, run: read(service, 'identity') },
    { name: names.unrenderedGzip, maxRounds: 3, run: read(service, 'gzip') },
    { name: names.plain, prepare: render, run: read(service, 'identity') },
    { name: names.gzip, run: read(service, 'gzip') },
    { name: names.cursor, maxRounds: 3, run: () => cursorAndFastCsv(bench) },
  ];
  try {
    // Compiles the code, as in a service that has been up for an hour.
    await renderDay(bench);
    for (const encoding of ['gzip', 'identity'] as const) {
      for (let time = 0; time < 6; time += 1) await read(service, encoding)();
    }
    const times = await alternate(contenders, bench.rounds);
    return describe(bench, baseline, times, {
      renderSeconds: median(renderings),
      sizes: await sizesOnDisk(bench),
    });
  } finally {
    await service.stop();
  }
}

interface Rendered {
  readonly renderSeconds: number;
  readonly sizes: { readonly chunks: number; readonly rows: number };
}

function describe(
  bench: Bench,
  baseline: string,
  times: ReadonlyMap<string, Times>,
  { renderSeconds, sizes }: Rendered,
): Section {
  const seconds = (name: string) => times.get(name)?.median ?? Number.NaN;
  const relative = (name: string) => seconds(baseline) / seconds(name);
  const rate = (name: string) => bench.rows / seconds(name);
  const all = [baseline, ...Object.values(names)];
  const mebibytes = (bytes: number) => (bytes / 1024 / 1024).toFixed(0);
  return {
    title: `Downloads of ${bench.rows.toLocaleString('en')} rows`,
    columns: ['', 'seconds', 'rows/s', '× psql'],
    rows: [
      ...all.map(name => [
        name,
        seconds(name).toFixed(3),
        formatNumber(rate(name)),
        relative(name).toFixed(2),
      ]),
      ['rendering', renderSeconds.toFixed(3), formatNumber(bench.rows / renderSeconds), ''],
    ],
    goals: [
      {
        text: 'first download after rendering, plain ≥ 8 × psql',
        kind: 'at least',
        wanted: 8,
        value: relative(names.plain),
      },
      {
        text: 'first download after rendering, gzip ≥ 40 × psql',
        kind: 'at least',
        wanted: 40,
        value: relative(names.gzip),
      },
      {
        text: 'not rendered yet, plain ≥ 0.95 × psql',
        kind: 'at least',
        wanted: 0.95,
        value: relative(names.unrendered),
      },
      {
        text: 'chunks ≤ 0.15 × rows on disk',
        kind: 'at most',
        wanted: 0.15,
        value: sizes.chunks / sizes.rows,
      },
    ],
    notes: [
      'Before the measurement, the service sends each form six times. Every measured download is the first one of its rendering.',
      `On disk the rows and their index take ${mebibytes(sizes.rows)} MiB, the chunks ${mebibytes(sizes.chunks)} MiB.`,
      `cursor + fast-csv, and gzip without a rendering: median of ${Math.min(3, bench.rounds)}.`,
    ],
    bars: all.map(name => ({ name, rowsPerSecond: rate(name) })),
  };
}
