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
    { name: names.converted, maxRounds: 3, run: read(service, 'gzip') },
    { name: names.cursor, maxRounds: 3, run: () => cursorAndFastCsv(bench) },
  ];
  try {
    // As a service that has been up for an hour: what sends a kept file is compiled.
    for (const encoding of ['gzip', 'identity'] as const) {
      for (let time = 0; time < 6; time += 1) await read(service, encoding)();
    }
    return describe(bench, baseline, await alternate(contenders, bench.rounds));
  } finally {
    await service.stop();
    await withoutParts.stop();
  }
}

function describe(bench: Bench, baseline: string, times: ReadonlyMap<string, Times>): Section {
  const seconds = (name: string) => times.get(name)?.median ?? Number.NaN;
  const relative = (name: string) => seconds(baseline) / seconds(name);
  const rate = (name: string) => bench.rows / seconds(name);
  const all = [
    baseline,
    names.cursor,
    names.cold,
    names.coldGzip,
    names.off,
    names.warm,
    names.warmGzip,
    names.converted,
  ];
  return {
    title: `Downloads of ${bench.rows.toLocaleString('en')} rows`,
    columns: ['', 'seconds', 'rows/s', '× psql'],
    rows: all.map(name => [
      name,
      seconds(name).toFixed(3),
      formatNumber(rate(name)),
      relative(name).toFixed(2),
    ]),
    goals: [
      {
        text: 'cold download ≥ 0.95 × psql',
        kind: 'at least',
        wanted: 0.95,
        value: relative(names.cold),
      },
      {
        text: 'cold download ≥ 2 × cursor + fast-csv',
        kind: 'at least',
        wanted: 2,
        value: relative(names.cold) / relative(names.cursor),
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
    notes: [
      'The service has sent each form six times before.',
      `cursor + fast-csv, and gzip of what was kept plain: median of ${Math.min(3, bench.rounds)}.`,
    ],
    bars: all.map(name => ({ name, rowsPerSecond: rate(name) })),
  };
}
