import type { Bench, Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { download } from './processes.ts';
import { type Service, startService } from './service.ts';

const slowBytesPerSecond = 100_000;

/** Peak resident memory of the service while files are read, one of them slowly. */
export async function measureMemory(bench: Bench): Promise<Section> {
  const rows: string[][] = [];
  let worst = 0;
  for (const [what, env] of [
    ['parts kept', {}],
    ['no part kept', { PART_STORE_MB: '0' }],
  ] as const) {
    const service = await startService({ ...bench, env });
    try {
      const file = dayFile(bench.environmentId);
      // What the first requests bring into memory stays there: code, connections.
      for (let time = 0; time < 20; time += 1)
        await service.call(`/v1/environments/${bench.environmentId}/exports`);
      const idle = service.residentMiB();
      const one = await peakDuring(service, () => download(service, file));
      service.forgetParts();
      const eight = await peakDuring(service, () => eightDownloads(service, file));
      worst = Math.max(worst, eight - idle);
      rows.push([what, ...[idle, one, eight, eight - idle].map(value => value.toFixed(0))]);
    } finally {
      await service.stop();
    }
  }
  return {
    title: 'Resident memory, MiB',
    columns: ['', 'idle', '1 download', '8 downloads', '8 above idle'],
    rows,
    goals: [{ text: 'MiB above idle with 8 downloads', kind: 'at most', wanted: 64, value: worst }],
    notes: [
      `One of the eight is read at ${slowBytesPerSecond / 1000} kB/s, until the others are done.`,
    ],
    bars: [],
  };
}

async function eightDownloads(service: Service, file: string): Promise<void> {
  const stop = new AbortController();
  const slow = download(service, file, {
    bytesPerSecond: slowBytesPerSecond,
    signal: stop.signal,
  }).catch(() => {});
  await Promise.all(Array.from({ length: 7 }, () => download(service, file)));
  stop.abort();
  await slow;
}

async function peakDuring(service: Service, work: () => Promise<unknown>): Promise<number> {
  let peak = 0;
  const look = () => {
    peak = Math.max(peak, service.residentMiB());
  };
  const watch = setInterval(look, 20);
  try {
    await work();
    look();
    return peak;
  } finally {
    clearInterval(watch);
  }
}
