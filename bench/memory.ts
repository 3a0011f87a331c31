import { once } from 'node:events';
import net, { type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { header, put } from './ingests.ts';
import { download } from './processes.ts';
import { forgetRendering, renderDay } from './rendering.ts';
import { type Service, startService } from './service.ts';

const slowBytesPerSecond = 100_000;

const stalledReaders = 100;

/** Measures the peak resident memory of the service while files are read, one of them slowly. */
export async function measureMemory(bench: Bench): Promise<Section> {
  const rows: string[][] = [];
  let worst = 0;
  const file = dayFile(bench.environmentId);
  for (const isRendered of [false, true]) {
    if (isRendered) await renderDay(bench);
    else await forgetRendering(bench);
    const service = await startService(bench);
    try {
      const idle = await idleMemory(bench, service);
      const one = await peakDuring(service, () => download(service, file));
      const eight = await peakDuring(service, () => eightDownloads(service, file));
      worst = Math.max(worst, eight - idle);
      const what = isRendered ? 'rendered' : 'not rendered yet';
      rows.push([what, ...[idle, one, eight, eight - idle].map(value => value.toFixed(0)), '']);
    } finally {
      await service.stop();
    }
  }
  const stalled = await measureStalledReaders(bench);
  rows.push([
    `${stalledReaders} readers that stall`,
    stalled.idle.toFixed(0),
    '',
    '',
    (stalled.peak - stalled.idle).toFixed(0),
    String(stalled.connections),
  ]);
  const ingest = await measureIngest(bench);
  rows.push([ingest.name, ingest.idle.toFixed(0), '', '', ingest.growth.toFixed(0), '']);
  return {
    title: 'Resident memory, MiB',
    columns: ['', 'idle', '1 download', '8 downloads', 'above idle', 'connections held'],
    rows,
    goals: [
      { text: 'MiB above idle with 8 downloads', kind: 'at most', wanted: 64, value: worst },
      {
        text: `MiB above idle with ${stalledReaders} stalled readers`,
        kind: 'at most',
        wanted: 256,
        value: stalled.peak - stalled.idle,
      },
      {
        text: `connections held by ${stalledReaders} stalled readers`,
        kind: 'at most',
        wanted: 0,
        value: stalled.connections,
      },
      {
        text: `MiB above idle with ${ingest.name}`,
        kind: 'at most',
        wanted: 64,
        value: ingest.growth,
      },
    ],
    notes: [
      `One of the eight downloads is read at ${slowBytesPerSecond / 1000} kB/s until the others have ended.`,
      'The readers that stall are spread over several environments and read nothing after the first bytes.',
    ],
    bars: [],
  };
}

/** Returns the resident memory after a few requests, which load code and open connections. */
async function idleMemory(bench: Bench, service: Service): Promise<number> {
  for (let time = 0; time < 20; time += 1)
    await service.call(`/v1/environments/${bench.environmentId}/exports`);
  return service.residentMiB();
}

/** Bytes of a body for each row of the other measurements: 1 GB for a million. */
const bodyBytesPerRow = 1_000;

/** Ingests a large body that is made while it is sent. */
async function measureIngest(
  bench: Bench,
): Promise<{ name: string; idle: number; growth: number }> {
  const bytes = bench.rows * bodyBytesPerRow;
  const service = await startService(bench);
  try {
    await service.call('/v1/environments/ours', {
      method: 'PUT',
      json: { name: 'ours', plan: 'pro' },
    });
    const idle = await idleMemory(bench, service);
    const body = Readable.from(bodyOf(bytes));
    const peak = await peakDuring(service, () => put(service, bench.date, body));
    return { name: `an ingest of ${bytes / 1e9} GB`, idle, growth: peak - idle };
  } finally {
    await bench.pool.query(`delete from snapshot_rows where environment_id = 'ours'`);
    await bench.pool.query(`delete from environments where id = 'ours'`);
    await service.stop();
  }
}

function* bodyOf(bytes: number): Generator<Buffer> {
  let sent = 0;
  for (let row = 0; sent < bytes; ) {
    let piece = row === 0 ? `${header}\n` : '';
    for (const end = row + 500; row < end; row += 1) {
      piece += `cmp_${String(row).padStart(9, '0')},Northwind Logistics ${row},export,Export,2025-01-01T00:00:00.000Z,2026-02-28T12:00:00.000Z,2025-02-01T00:00:00.000Z,2026-02-27T12:00:00.000Z,3,2,4,0,"Everybody, Paying","seg_1, seg_2"\n`;
    }
    const buffer = Buffer.from(piece);
    sent += buffer.length;
    yield buffer;
  }
}

async function measureStalledReaders(
  bench: Bench,
): Promise<{ idle: number; peak: number; connections: number }> {
  const service = await startService(bench);
  const sockets: Socket[] = [];
  try {
    const environments = await copyRendering(bench, Math.ceil(stalledReaders / readersEach));
    const idle = await idleMemory(bench, service);
    let connections = 0;
    const peak = await peakDuring(service, async () => {
      for (let index = 0; index < stalledReaders; index += 1) {
        const environment = environments[Math.floor(index / readersEach)] ?? '';
        sockets.push(await stall(service, dayFile(environment)));
      }
      await delay(2_000);
      const { rows } = await bench.pool.query<{ count: number }>(
        `select count(*) from pg_stat_activity
         where application_name ~ 'warehouse-export (export|session)' and state <> 'idle'`,
      );
      connections = rows[0]?.count ?? Number.NaN;
    });
    return { idle, peak, connections };
  } finally {
    for (const socket of sockets) socket.destroy();
    await bench.pool.query(`delete from environments where id like 'stalled-%'`);
    await service.stop();
  }
}

/** Stalled readers in each environment. The limit of one environment is higher. */
const readersEach = 8;

/**
 * Copies the registry row and the chunks of the day to new environments.
 *
 * @returns their ids
 */
async function copyRendering({ pool, ...bench }: Bench, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, index) => `stalled-${index}`);
  for (const id of ids) {
    await pool.query(`insert into environments (id, name, plan) values ($1, $1, 'enterprise')`, [
      id,
    ]);
    const values = [id, bench.environmentId, bench.date];
    await pool.query(
      `insert into snapshots (environment_id, snapshot_date, version, row_count)
       select $1, snapshot_date, version, row_count from snapshots
       where environment_id = $2 and snapshot_date = $3`,
      values,
    );
    await pool.query(
      `insert into rendered_snapshots (environment_id, version, snapshot_date,
         plain_bytes, deflated_bytes, chunk_count, crc32, renderer)
       select $1, version, snapshot_date, plain_bytes, deflated_bytes, chunk_count, crc32, renderer
       from rendered_snapshots where environment_id = $2 and snapshot_date = $3`,
      values,
    );
    await pool.query(
      `insert into snapshot_chunks
       select $1, version, index, plain_bytes, checksum, deflated
       from snapshot_chunks where environment_id = $2`,
      [id, bench.environmentId],
    );
  }
  return ids;
}

/** Requests a file and reads only its first bytes. */
async function stall(service: Service, where: string): Promise<Socket> {
  const url = new URL(service.origin + where);
  const socket = net.connect({ host: url.hostname, port: Number(url.port) });
  socket.on('error', () => {});
  socket.write(
    `GET ${url.pathname} HTTP/1.1\r\nHost: ${url.host}\r\nAccept-Encoding: identity\r\n` +
      `Authorization: Bearer ${service.token}\r\n\r\n`,
  );
  const [head] = (await once(socket, 'data')) as [Buffer];
  if (!head.toString('latin1').startsWith('HTTP/1.1 200 '))
    throw new Error(`not a file: ${head.toString('latin1').slice(0, 300)}`);
  socket.pause();
  return socket;
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
