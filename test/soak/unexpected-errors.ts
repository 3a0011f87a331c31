import type { World } from './world.ts';

/** What processes log at error level while the database is away is the outage itself. Any other line is a fault. */

const errorLevel = 50;
/** Connections that broke are noticed, and callers who waited for one are told, within so long. */
const aftermathMs = 10_000;

const aboutOutages =
  /ECONNRESET|ECONNREFUSED|EPIPE|Connection terminated|read-only transaction|the database system is|terminating connection|postmaster exited|timeout exceeded when trying to connect|Client was closed|Client has encountered a connection error/;
/** 503 to a caller, a download that had to break off, and a tick or a tidying that the next one makes up for. */
const expected = [
  'request failed',
  'download broke off',
  'tick failed',
  'tidying up failed; the next night tries again',
];

/**
 * A caller was told to come again without an outage: for a load of a day that the tidying is about to remove, and where
 * the machine takes 5 s to make a connection.
 */
const anytime = /canceling statement due to lock timeout|timeout exceeded when trying to connect/;

export function unexpectedErrors(world: World): string[] {
  return world.history.flatMap(({ name, service }) =>
    service
      .logged()
      .filter(line => Number(line['level']) >= errorLevel || line['level'] === 0)
      .filter(line => !isOfAnOutage(world, line) && !isRefusal(line))
      .map(line => `${name}: ${JSON.stringify(line).slice(0, 3_000)}`)
      .slice(0, 10),
  );
}

function isOfAnOutage(world: World, line: Readonly<Record<string, unknown>>): boolean {
  const at = Number(line['time']);
  const isThen = world.outages.some(({ from, to }) => at >= from && at <= to + aftermathMs);
  return (
    isThen &&
    expected.includes(String(line['msg'])) &&
    aboutOutages.test(JSON.stringify(line['err']))
  );
}

function isRefusal(line: Readonly<Record<string, unknown>>): boolean {
  return line['msg'] === 'request failed' && anytime.test(JSON.stringify(line['err']));
}
