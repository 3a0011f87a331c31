import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { ProcessName, World } from './world.ts';

/** Memory and open files of the long-lived processes during faults. */

const everyMs = 1_000;
/** Time after which connections that callers and Postgres closed are released. */
const quietMs = 3_000;
/** Largest growth in resident memory between the second and the last third of the load. */
const mayGrowMiB = 80;
/** Largest growth per hour of a load that lasts 15 minutes or longer. */
const mayGrowMiBAnHour = 60;
const longMs = 15 * 60_000;
const mayStayOpen = 60;

interface Sample {
  readonly atMs: number;
  readonly residentMiB: number;
}

const elders: readonly ProcessName[] = ['elder api', 'elder worker'];

export interface LeakWatch {
  /**
   * One line per process, such as `elder api: 151 MiB in the second third, 160 MiB in the last, 4
   * MiB an hour`.
   */
  readonly summary: string[];
  verify(durationMs: number): Promise<void>;
}

export function watchLeaks(world: World): LeakWatch {
  const samples = new Map<ProcessName, Sample[]>(elders.map(name => [name, []]));
  const startedAt = Date.now();
  const timer = setInterval(() => {
    for (const [name, taken] of samples) {
      const residentMiB = residentOf(world.processes.get(name)?.pid ?? 0);
      if (residentMiB !== null) taken.push({ atMs: Date.now() - startedAt, residentMiB });
    }
  }, everyMs);
  timer.unref();
  const summary: string[] = [];
  return {
    summary,
    async verify(durationMs) {
      clearInterval(timer);
      await delay(quietMs);
      for (const [name, taken] of samples) {
        const thirds = [1, 2].map(third =>
          median(
            taken
              .slice(
                Math.floor((taken.length * third) / 3),
                Math.ceil((taken.length * (third + 1)) / 3),
              )
              .map(({ residentMiB }) => residentMiB),
          ),
        );
        const [second = 0, last = 0] = thirds;
        const slope = slopeMiBAnHour(taken.slice(Math.floor(taken.length / 3)));
        summary.push(
          `${name}: ${second.toFixed(0)} MiB in the second third, ${last.toFixed(0)} MiB in the last, ${slope.toFixed(0)} MiB an hour`,
        );
        if (last - second > mayGrowMiB) world.faults.push(`memory: ${summary.at(-1)}`);
        if (durationMs >= longMs && slope > mayGrowMiBAnHour)
          world.faults.push(`memory: ${summary.at(-1)}`);
        const pid = world.processes.get(name)?.pid ?? 0;
        const open = fs.readdirSync(`/proc/${pid}/fd`).length;
        if (open > mayStayOpen)
          world.faults.push(`${name} has ${open} files and connections open at the end`);
      }
    },
  };
}

function residentOf(pid: number): number | null {
  try {
    const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
  } catch {
    return null;
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? 0;
}

/** Returns the slope of the least-squares line. */
function slopeMiBAnHour(samples: readonly Sample[]): number {
  const mean = (values: number[]) =>
    values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1);
  const meanAt = mean(samples.map(({ atMs }) => atMs));
  const meanMiB = mean(samples.map(({ residentMiB }) => residentMiB));
  let covariance = 0;
  let variance = 0;
  for (const { atMs, residentMiB } of samples) {
    covariance += (atMs - meanAt) * (residentMiB - meanMiB);
    variance += (atMs - meanAt) ** 2;
  }
  return variance === 0 ? 0 : (covariance / variance) * 3_600_000;
}
