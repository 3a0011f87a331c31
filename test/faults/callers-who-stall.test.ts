import fs from 'node:fs';
import t from 'tap';
import { isoDate } from '../../src/http/schemas.ts';
import { loadColumns } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { ask } from '../helpers/http-client.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { connectRaw, eventually, type RawConnection } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startApiProcess } from '../helpers/service-process.ts';
import { isFullScale, scaled } from './scale.ts';

/** Callers who hold on to what they have, against the real service in a process of its own. */

t.setTimeout(400_000);

/** Time-outs are 60 s, looked at every 30 s. */
const patienceMs = 120_000;
const promptMs = 2_000;
const environments = ['acme', 'beta', 'gamma'];
/** More than sockets hold on both sides. */
const rowCount = 80_000;

const database = await createTestDatabase(t);
const yesterday = isoDate(new Date(Date.now() - 86_400_000));
// Only to have the environments there before.
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

/** A byte now and then, so that the connection is never still. */
function dribble({ connections }: Stallers, byte: string): void {
  const timer = setInterval(() => {
    for (const { socket } of connections) if (socket.writable) socket.write(byte);
  }, 1_000);
  t.teardown(() => clearInterval(timer));
}

/** How long the slowest of a few ordinary requests takes. */
async function slowest(): Promise<number> {
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

t.test('the API answers while they hold on, and all that they held comes back', async t => {
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
      `Content-Length: 1000000\r\n\r\n${loadColumns.join(',')}\n`,
  );
  const downloads = await open(
    'downloads that nobody reads',
    isFullScale ? 200 : 30,
    index =>
      `${authorized(`GET /v1/environments/${environments[index % 3]}/exports/today.csv`)}\r\n`,
    1,
  );
  await eventually(
    () => downloads.connections.every(({ received }) => received().length > 0),
    'an answer to each',
    30_000,
  );
  const statuses = downloads.connections.map(({ received }) =>
    received().toString('latin1', 9, 12),
  );
  const begun = statuses.filter(status => status === '200').length;
  t.equal(begun, 16, 'as many as there are slots have begun');
  t.equal(
    statuses.filter(status => status === '429').length,
    statuses.length - begun,
    'the others are told to wait',
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
    // Who is paused does not see the end, and must not read on before it.
    if (what === downloads.what) {
      const isOver = async () => (await metric('whx_downloads_in_progress')) === 0;
      await eventually(isOver, 'the end of the stalled downloads', patienceMs);
    }
    let closed = 0;
    for (const connection of connections) {
      if (what === downloads.what) connection.socket.resume();
      void connection.closed.then(() => {
        closed += 1;
      });
      // What was answered early is a connection to use again, and has not ended.
      const hasAnswer = /^HTTP\/1\.1 (429|409)/.test(connection.received().toString('latin1'));
      if (hasAnswer && what !== uploads.what) connection.socket.destroy();
    }
    await eventually(() => closed === connections.length, `the end of ${what}`, patienceMs);
  }
  await eventually(() => openFiles() <= filesBefore + 5, 'the end of all connections', patienceMs);
  t.equal(await metric('whx_downloads_in_progress'), 0);
  t.equal(await metric('whx_loads_in_progress'), 0);
  t.ok((await slowest()) < promptMs);
  const whole = await Promise.all(
    environments.map(id => get(`/v1/environments/${id}/exports/today.csv`)),
  );
  for (const answer of whole) t.equal(Number(answer.headers['x-total-rows']), rowCount);
  for (const { text } of whole) t.equal(text.split('\n').length, rowCount + 2);
  const length = Math.min(...whole.map(({ body }) => body.length));
  t.ok(
    downloads.connections.every(({ received }) => received().length < length),
    'no download that stalled came to its end',
  );
});
