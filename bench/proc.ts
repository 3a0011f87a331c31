import fs from 'node:fs';

/** What Linux tells of processes. */

/** Of a Postgres server and all its processes, those that have ended included. */
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

/** Linux counts in hundredths of a second for every program. */
const ticksPerSecond = 100;

/** The fields of /proc/<pid>/stat after the name: state, parent, and at 11 to 14 the times of it and of its children. */
function statOf(pid: number | string): string[] {
  try {
    return (fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1) ?? '').split(' ');
  } catch {
    return [];
  }
}

/** The process that started it. */
export function parentOf(pid: number): number {
  return Number(statOf(pid)[1]);
}

/** That it has used itself. */
export function cpuSeconds(pid: number): number {
  const fields = statOf(pid);
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

export function residentMiB(pid: number): number {
  const [, kiB] = /^VmRSS:\s+(\d+) kB$/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kiB) / 1024;
}
