import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { freePort } from '../../dev/free-port.ts';
import { isoDate } from '../../src/shared/iso-date.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { startBalancer } from '../helpers/balancer.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { type Ask, ask, open } from '../helpers/http-client.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { isFullScale } from '../helpers/scale.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startApiProcess } from '../helpers/service-process.ts';
import { waitFor } from '../helpers/wait-for.ts';

/**
 * Processes that are replaced one after another under load, and the shutdown of a single process.
 */

t.setTimeout(400_000);

const authorization = { authorization: `Bearer ${testAdminToken}` };
const csv = { ...authorization, 'content-type': 'text/csv' };
const today = isoDate(new Date());
const yesterday = isoDate(new Date(Date.now() - 86_400_000));
/** More rows than the socket buffers of both sides hold. */
const rowCount = 80_000;
const rounds = isFullScale ? 6 : 1;

const database = await createTestDatabase(t);
const own = await startApp(t, { databaseUrl: database.url, now: new Date().toISOString() });
for (const id of ['acme', 'large']) await own.putEnvironment(id);
await fillSnapshot(database.pool, 'large', yesterday, rowCount);

t.test('drops no request during a rolling restart', async t => {
  const ports = [await freePort(), await freePort()];
  const start = (port: number) =>
    startApiProcess(database.url, {
      PORT: String(port),
      // Longer than a stall of the balancer, which must notice the drain.
      SHUTDOWN_DRAIN_SECONDS: '4',
    });
  const services = await Promise.all(ports.map(start));
  t.teardown(async () => {
    await Promise.all(services.map(service => service.end('SIGKILL')));
  });
  const balancer = await startBalancer(ports);
  t.teardown(balancer.close);
  await waitFor('two ready processes', () => balancer.ready.size === 2);

  const agent = new http.Agent({ keepAlive: true, maxSockets: 12 });
  t.teardown(async () => agent.destroy());
  const rows = [adoptionRow(), adoptionRow({ companyId: 'c2', companyName: '' })];
  const file = exportHeader + exportPart(rows, today);
  const call = (path: string, options: Ask = {}) =>
    ask(`${balancer.origin}/v1/environments/${path}`, {
      headers: authorization,
      ...options,
      agent,
    });
  /** Requests that resolve to a description of a wrong answer, or to null. */
  const requests: (() => Promise<string | null>)[] = [
    async () => expectStatus(await call('acme'), 200),
    async () => expectStatus(await call('acme/exports'), 200),
    async () => {
      // The day may end during the test.
      const answer = await call(`acme/exports/today.csv?asOf=${today}`);
      return answer.text === file
        ? null
        : `wrong file: ${answer.status} ${answer.text.slice(0, 300)}`;
    },
    async () => {
      const body = JSON.stringify({ name: 'Acme', plan: 'enterprise' });
      const headers = { ...authorization, 'content-type': 'application/json' };
      return expectStatus(await call('acme', { method: 'PUT', headers, body }), 200);
    },
    async () =>
      expectStatus(
        await call('large/exports/30-days-daily.csv.gz', {
          headers: authorization,
          method: 'HEAD',
        }),
        200,
      ),
  ];
  const ingest = async () => {
    const answer = await call(`acme/snapshots/${today}`, {
      method: 'PUT',
      headers: csv,
      body: ingestBody(rows),
    });
    return answer.status === 200 || answer.status === 201
      ? null
      : `${answer.status} ${answer.text}`;
  };
  t.equal(await ingest(), null);

  const over = new AbortController();
  const wrong: string[] = [];
  let asked = 0;
  const sendSteadily = async (choose: (turn: number) => () => Promise<string | null>) => {
    for (let turn = 0; !over.signal.aborted; turn += 1) {
      asked += 1;
      const fault = await choose(turn)().catch((error: Error) => error.message);
      if (fault !== null) wrong.push(fault);
      await delay(5);
    }
  };
  const clients = Array.from({ length: 8 }, (_, client) =>
    sendSteadily(turn => requests[(client + turn) % requests.length] ?? ingest),
  );
  // Two concurrent ingests of one day would conflict.
  clients.push(sendSteadily(() => ingest));
  for (let round = 0; round < rounds; round += 1) {
    for (const [index, port] of ports.entries()) {
      t.equal(await services[index]?.end('SIGTERM'), 0, 'exit code of the old process');
      services[index] = await start(port);
      await waitFor('the readiness of the new process', () => balancer.ready.has(port));
    }
  }
  over.abort();
  await Promise.all(clients);
  t.strictSame(balancer.failures.slice(0, 5), []);
  t.strictSame(wrong.slice(0, 5), []);
  console.error(
    `rolling restarts: ${asked} requests, ${rounds * 2} restarts, ${wrong.length} failed`,
  );
  t.ok(asked > 100 * rounds);
  for (const service of services) {
    t.strictSame(
      service.logged().filter(line => Number(line['level']) >= 50),
      [],
    );
  }
});

t.test('drains, completes downloads and exits after SIGTERM', async t => {
  const service = await startApiProcess(database.url, {
    SHUTDOWN_DRAIN_SECONDS: '6',
  });
  t.teardown(() => service.end('SIGKILL'));
  const agent = new http.Agent({ keepAlive: true });
  t.teardown(async () => agent.destroy());
  const get = (path: string, more: Ask = {}) =>
    ask(`${service.origin}${path}`, { headers: authorization, agent, ...more });
  const download = await open(`${service.origin}/v1/environments/large/exports/30-days-daily.csv`, {
    headers: authorization,
    agent,
  });
  download.pause();

  const toldAt = Date.now();
  service.signal('SIGTERM');
  await waitFor(
    'the answer 503 to the readiness probe',
    async () => (await get('/health/ready')).status === 503,
  );
  t.ok(Date.now() - toldAt < 4_000, 'at once, not after the drain period');
  const served = await get('/v1/environments/acme');
  t.equal(served.status, 200, 'still serves');
  t.equal(served.headers.connection, 'close', 'closes connections after the answer');
  t.equal(
    (await get('/health/live', { agent: new http.Agent() })).status,
    200,
    'still accepts connections',
  );
  // A process may receive the signal twice: from the terminal and from a launcher that passes it
  // on.
  service.signal('SIGTERM');
  service.signal('SIGINT');

  await waitFor('the refusal of new connections', () =>
    get('/health/live').then(
      () => false,
      () => true,
    ),
  );
  t.ok(Date.now() - toldAt >= 5_500, 'after the drain period');
  let bytes = 0;
  let last = Buffer.alloc(0);
  for await (const chunk of download) {
    bytes += chunk.length;
    last = chunk;
  }
  t.equal(last.at(-1), 10);
  t.ok(bytes > rowCount * 100, 'the download is complete');
  const readAt = Date.now();
  t.equal(await service.ended, 0);
  // The time limit of the shutdown would end the process 24 s after the drain period.
  t.ok(Date.now() - readAt < 12_000, 'an idle connection does not delay the exit');
});

t.test(
  'cuts off a stalled download 30 s after SIGTERM',
  { skip: isFullScale ? false : 'takes 30 s' },
  async t => {
    const service = await startApiProcess(database.url, {
      SHUTDOWN_DRAIN_SECONDS: '1',
    });
    t.teardown(() => service.end('SIGKILL'));
    const download = await open(
      `${service.origin}/v1/environments/large/exports/30-days-daily.csv`,
      {
        headers: authorization,
      },
    );
    download.pause();
    const toldAt = Date.now();
    t.equal(await service.end('SIGTERM'), 0);
    const tookMs = Date.now() - toldAt;
    t.ok(tookMs > 25_000 && tookMs < 35_000, `${tookMs} ms`);
    await t.rejects(async () => {
      for await (const _ of download);
    }, 'the file does not look complete');
  },
);

function expectStatus(
  { status, text }: { status: number; text: string },
  wanted: number,
): string | null {
  return status === wanted ? null : `${status} ${text.slice(0, 300)}`;
}
