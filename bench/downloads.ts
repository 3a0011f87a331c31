import { baselineName, copyToPipe, cursorAndFastCsv } from './baselines.ts';
import { type Bench, formatNumber, type Section } from './bench.ts';
import { alternate, type Contender, type Times } from './measure.ts';
import { download } from './processes.ts';
import { type Service, startService } from './service.ts';

/** The file that shows the closed day alone: the other 29 have no snapshot. */
export const dayFile = (environmentId: string) =>
  `/v1/environments/${environmentId}/exports/30-days-daily.csv`;

const names = {
  cursor: 'cursor + fast-csv',
  cold: 'ours, first of its day, plain',
  coldGzip: 'ours, first of its day, gzip',
  off: 'ours, no part kept, plain',
  warm: 'ours, repeated, plain',
  warmGzip: 'ours, repeated, gzip',
  converted: 'ours, gzip of what was kept plain',
} as const;

/** Our downloads beside the limit of a row-by-row export, and beside what most teams write. */
export async function measureDownloads(bench: Bench): Promise<Section> {
  const service = await startService(bench);
  const withoutParts = await startService({ ...bench, env: { PART_STORE_MB: '0' } });
  const file = dayFile(bench.environmentId);
  const read = (from: Service, encoding: 'identity' | 'gzip') => async () =>
    (await download(from, file, { encoding })).seconds;
  const prepare = async () => service.forgetParts();
  const baseline = baselineName(bench);
  const contenders: Contender[] = [
    { name: baseline, run: () => copyToPipe(bench) },
    { name: names.off, run: read(withoutParts, 'identity') },
    { name: names.coldGzip, prepare, run: read(service, 'gzip') },
    { name: names.warmGzip, run: read(service, 'gzip') },
    { name: names.cold, prepare, run: read(service, 'identity') },
    { name: names.warm, run: read(service, 'identity') },
    { name: names.converted, run: read(service, 'gzip') },
  ];
  try {
    const times = await alternate(contenders, bench.rounds);
    const cursor: Contender = { name: names.cursor, run: () => cursorAndFastCsv(bench) };
    const limit: Contender = { name: baseline, run: () => copyToPipe(bench) };
    const slow = await alternate([cursor, limit], Math.min(3, bench.rounds));
    return describe(bench, baseline, times, slow);
  } finally {
    await service.stop();
    await withoutParts.stop();
  }
}

function describe(
  bench: Bench,
  baseline: string,
  times: ReadonlyMap<string, Times>,
  slow: ReadonlyMap<string, Times>,
): Section {
  const of = (from: ReadonlyMap<string, Times>, name: string) => from.get(name)?.median ?? Number.NaN;
  const relative = (name: string) => of(times, baseline) / of(times, name);
  // Measured beside fewer rounds of the limit: carried over in proportion.
  const cursor = of(slow, baseline) / of(slow, names.cursor);
  const rate = (ratio: number) => (ratio * bench.rows) / of(times, baseline);
  const all = [
    { name: baseline, ratio: 1 },
    { name: names.cursor, ratio: cursor },
    ...[names.cold, names.coldGzip, names.off, names.warm, names.warmGzip, names.converted].map(name => ({
      name,
      ratio: relative(name),
    })),
  ];
  return {
    title: `Downloads of ${bench.rows.toLocaleString('en')} rows`,
    columns: ['', 'seconds', 'rows/s', '× psql'],
    rows: all.map(({ name, ratio }) => [
      name,
      (bench.rows / rate(ratio)).toFixed(3),
      formatNumber(rate(ratio)),
      ratio.toFixed(2),
    ]),
    goals: [
      { text: 'cold download ≥ 0.95 × psql', kind: 'at least', wanted: 0.95, value: relative(names.cold) },
      {
        text: 'cold download ≥ 2 × cursor + fast-csv',
        kind: 'at least',
        wanted: 2,
        value: relative(names.cold) / cursor,
      },
      {
        text: 'repeated download, plain ≥ 10 × psql',
        kind: 'at least',
        wanted: 10,
        value: relative(names.warm),
      },
      {
        text: 'repeated download, gzip ≥ 50 × psql',
        kind: 'at least',
        wanted: 50,
        value: relative(names.warmGzip),
      },
    ],
    notes: [`cursor + fast-csv: median of ${Math.min(3, bench.rounds)}, it takes so long.`],
    bars: all.map(({ name, ratio }) => ({ name, rowsPerSecond: rate(ratio) })),
  };
}
