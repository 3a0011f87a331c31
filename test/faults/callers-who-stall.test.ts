import fs from 'node:fs';
import t from 'tap';
import { isoDate } from '../../src/shared/iso-date.ts';
import { ingestColumns } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { ask } from '../helpers/http-client.ts';
import { lowestOf } from '../helpers/lowest-of.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { connectRaw, type RawConnection } from '../helpers/raw-http.ts';
import { isFullScale, scaled } from '../helpers/scale.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startApiProcess } from '../helpers/service-process.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** Callers that stall, against the real service in a separate process. */

t.setTimeout(400_000);

/** Timeouts are 60 s and checked every 30 s. */
const limitMs = 120_000;
const promptMs = 2_000;
const environments = ['acme', 'beta', 'gamma'];
/** More rows than the socket buffers of both sides hold. */
const rowCount = 80_000;

const database = await createTestDatabase(t);
const yesterday = isoDate(new Date(Date.now() - 86_400_000));
// This app only creates the environments.
const own = await startApp(t, { databaseUrl: database.url, now: new Date().toISOString() });
for (const id of environments) {
  await own.putEnvironment(id);
  await fillSnapshot(database.pool, id, yesterday, rowCount);
}
const service = await startApiProcess(database.url);
t.teardown(() => service.end('SIGKILL'));
const { origin, port } = service;
const headers = { authorization: `Bearer ${testAdminToken}` };
const get = (path: string) => ask(origin + path, { headers });

const openFiles = () => fs.readdirSync(`/proc/${service.pid}/fd`).length;
const metric = async (name: string) =>
  Number(new RegExp(`^${name} (\\d+)$`, 'm').exec((await get('/metrics')).text)?.[1]);
const authorized = (line: string) =>
  `${line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${testAdminToken}\r\n`;

interface Stallers {
  readonly what: string;
  readonly connections: readonly RawConnection[];
}

async function open(
  what: string,
  count: number,
  text: (index: number) => string,
  pauseAfterBytes?: number,
) {
  const connections: RawConnection[] = [];
  for (let index = 0; index < count; index += 1) {
    const connection = await connectRaw(port, pauseAfterBytes);
    t.teardown(() => connection.socket.destroy());
    connection.socket.write(text(index));
    connections.push(connection);
  }
  return { what, connections };
}

/** Sends one byte per second on each connection, so that it is never idle. */
function dribble({ connections }: Stallers, byte: string): void {
  const timer = setInterval(() => {
    for (const { socket } of connections) if (socket.writable) socket.write(byte);
  }, 1_000);
  t.teardown(() => clearInterval(timer));
}

/** Returns the duration of the slowest of 30 ordinary requests, in milliseconds. */
const slowest = () => lowestOf(3, promptMs, slowestOnce);

async function slowestOnce(): Promise<number> {
  let worst = 0;
  for (let round = 0; round < 10; round += 1) {
    for (const path of [
      '/health/ready',
      '/v1/environments/acme',
      '/v1/environments/acme/export-configs',
    ]) {
      const startedAt = performance.now();
      const { status, text } = await get(path);
      if (status !== 200) throw new Error(`${path}: ${status} ${text}`);
      worst = Math.max(worst, performance.now() - startedAt);
    }
  }
  return worst;
}

t.test(
  'answers other callers in time while callers stall, and releases what they held',
  async t => {
    await slowest();
    const filesBefore = openFiles();

    const idle = await open('idle', scaled(1_000), () => '');
    const slowHeads = await open('slow headers', scaled(200), () =>
      authorized('GET /v1/environments'),
    );
    dribble(slowHeads, 'X');
    const slowBodies = await open(
      'slow bodies',
      scaled(100),
      () =>
        `${authorized('PUT /v1/environments/acme')}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{`,
    );
    dribble(slowBodies, ' ');
    const uploads = await open(
      'uploads that stop',
      scaled(100),
      index =>
        `${authorized(`PUT /v1/environments/${environments[index % 3]}/snapshots/${yesterday}`)}Content-Type: text/csv\r\n` +
        `Content-Length: 1000000\r\n\r\n${ingestColumns.join(',')}\n`,
    );
    const downloads = await open(
      'downloads that are not read',
      isFullScale ? 200 : 30,
      index =>
        `${authorized(`GET /v1/environments/${environments[index % 3]}/exports/today.csv`)}\r\n`,
      1,
    );
    await waitFor('an answer to each download', () =>
      downloads.connections.every(({ received }) => received().length > 0),
    );
    const statuses = downloads.connections.map(({ received }) =>
      received().toString('latin1', 9, 12),
    );
    const begun = statuses.filter(status => status === '200').length;
    t.equal(begun, 16, 'as many downloads as there are slots have started');
    t.strictSame(
      statuses.filter(status => status !== '200' && status !== '429'),
      [],
      'all others are answered 429',
    );
    for (const [index, { received }] of downloads.connections.entries()) {
      if (statuses[index] === '429') t.match(received().toString(), /retry-after: \d+/);
    }
    const worst = await slowest();
    t.ok(worst < promptMs, `the slowest of 30 requests took ${Math.round(worst)} ms`);
    const held = [idle, slowHeads, slowBodies, uploads, downloads].map(
      ({ what, connections }) => `${connections.length} ${what}`,
    );
    console.error(
      `stalling callers: ${held.join(', ')}; the slowest of 30 requests took ${Math.round(worst)} ms`,
    );

    for (const { what, connections } of [slowBodies, uploads, downloads, slowHeads, idle]) {
      // A paused socket does not notice its end. It must not read on before the service has cut it
      // off.
      if (what === downloads.what) {
        const isOver = async () => (await metric('whx_downloads_in_progress')) === 0;
        await waitFor('the end of all stalled downloads', isOver, { limitMs });
      }
      let closed = 0;
      for (const connection of connections) {
        if (what === downloads.what) connection.resume();
        void connection.closed.then(() => {
          closed += 1;
        });
        // A request that was answered early leaves a reusable connection open.
        const hasAnswer = /^HTTP\/1\.1 (429|409)/.test(connection.received().toString('latin1'));
        if (hasAnswer && what !== uploads.what) connection.socket.destroy();
      }
      await waitFor(`the end of ${what}`, () => closed === connections.length, { limitMs });
    }
    await waitFor('the end of all connections', () => openFiles() <= filesBefore + 5, { limitMs });
    t.equal(await metric('whx_downloads_in_progress'), 0);
    t.equal(await metric('whx_ingests_in_progress'), 0);
    t.ok((await slowest()) < promptMs);
    const whole = await Promise.all(
      environments.map(id => get(`/v1/environments/${id}/exports/today.csv`)),
    );
    for (const answer of whole) t.equal(Number(answer.headers['x-total-rows']), rowCount);
    for (const { text } of whole) t.equal(text.split('\n').length, rowCount + 2);
    const length = Math.min(...whole.map(({ body }) => body.length));
    t.ok(
      downloads.connections.every(({ received }) => received().length < length),
      'no stalled download was completed',
    );
  },
);
