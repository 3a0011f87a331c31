import fs from 'node:fs';

/** Reads facts about processes from Linux. */

/**
 * Returns the CPU time of a Postgres server and all its processes. Includes processes that have
 * ended.
 */
export function serverCpuSeconds(postmaster: number): number {
  let ticks = 0;
  for (const pid of fs.readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    const fields = statOf(pid);
    if (Number(fields[1]) === postmaster) ticks += Number(fields[11]) + Number(fields[12]);
    if (Number(pid) === postmaster)
      ticks += [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0);
  }
  return ticks / ticksPerSecond;
}

/** Length of a clock tick: Linux counts CPU time in hundredths of a second. */
const ticksPerSecond = 100;

/**
 * Returns the fields of /proc/<pid>/stat after the name. Field 0 is the state, 1 the parent. Fields
 * 11 to 14 are the times of the process and of its children.
 */
function statOf(pid: number | string): string[] {
  try {
    return (fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1) ?? '').split(' ');
  } catch {
    return [];
  }
}

/** Returns the parent of a process. */
export function parentOf(pid: number): number {
  return Number(statOf(pid)[1]);
}

/** Returns the CPU time of a process without its children. */
export function cpuSeconds(pid: number): number {
  const fields = statOf(pid);
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

export function residentMiB(pid: number): number {
  const [, kiB] = /^VmRSS:\s+(\d+) kB$/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kiB) / 1024;
}
