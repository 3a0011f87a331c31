import type { World } from './world.ts';

/**
 * Finds unexpected log lines at error level. Errors about an outage of the database are expected
 * during the outage.
 */

const errorLevel = 50;
/**
 * Time after an outage within which broken connections are noticed and waiting requests are
 * answered.
 */
const aftermathMs = 10_000;

const aboutOutages =
  /ECONNRESET|ECONNREFUSED|EPIPE|Connection terminated|read-only transaction|the database system is|terminating connection|postmaster exited|timeout exceeded when trying to connect|Client was closed|connection has been discarded|Client has encountered a connection error/;
/**
 * Messages of a 503, an interrupted download, its lost audit line, failed ticks and a failed
 * retention job. The latter two are repeated later.
 */
const expected = [
  'request failed',
  'download failed',
  'audit line of a download lost',
  'run tick failed',
  'rendering tick failed',
  'retention failed',
];

/**
 * Requests may be answered 503 without an outage: an ingest of a day that retention is about to
 * remove, and a database connection that takes longer than 5 s.
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
  const isThen = world.outages.database.some(
    ({ from, to }) => at >= from && at <= to + aftermathMs,
  );
  return (
    isThen &&
    expected.includes(String(line['msg'])) &&
    aboutOutages.test(JSON.stringify(line['err']))
  );
}

function isRefusal(line: Readonly<Record<string, unknown>>): boolean {
  return line['msg'] === 'request failed' && anytime.test(JSON.stringify(line['err']));
}
