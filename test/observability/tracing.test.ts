import { randomBytes } from 'node:crypto';
import t, { type Test } from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { configBody } from '../helpers/export-configs.ts';
import { until } from '../helpers/until.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { type Ask, ask } from '../helpers/http-client.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { eventually } from '../helpers/raw-http.ts';
import { renderSnapshots } from '../helpers/render-snapshots.ts';
import { needsS3 } from '../helpers/s3.ts';
import { registerSecret, testAdminToken, usedSecrets } from '../helpers/secrets.ts';
import { startApiProcess, startServiceProcess } from '../helpers/service-process.ts';
import { startTraceReceiver } from '../helpers/trace-receiver.ts';

/** Tests the traces of a service process that sends them to a receiver on loopback. */

const today = new Date().toISOString().slice(0, 10);
const download = 'GET /v1/environments/:environmentId/exports/:aggregation.csv';

t.setTimeout(300_000);

/** Creates the trace context of a caller. */
function callerTrace() {
  const traceId = randomBytes(16).toString('hex');
  const spanId = randomBytes(8).toString('hex');
  return { traceId, spanId, headers: { traceparent: `00-${traceId}-${spanId}-01` } };
}

async function start(t: Test, env: Readonly<Record<string, string>> = {}) {
  const database = await createTestDatabase(t);
  const receiver = await startTraceReceiver();
  t.teardown(receiver.close);
  const service = await startApiProcess(database.url, {
    SHUTDOWN_DRAIN_SECONDS: '0',
    ...receiver.env,
    ...env,
  });
  t.teardown(() => service.end('SIGTERM'));
  const call = (path: string, { headers, ...rest }: Ask = {}) =>
    ask(service.origin + path, {
      ...rest,
      headers: {
        authorization: `Bearer ${testAdminToken}`,
        'content-type': 'application/json',
        ...headers,
      },
    });
  const plan = JSON.stringify({ name: 'Acme', plan: 'enterprise' });
  await call('/v1/environments/acme', { method: 'PUT', body: plan });
  const ingest = (headers: Ask['headers'] = {}) =>
    call(`/v1/environments/acme/snapshots/${today}`, {
      method: 'PUT',
      headers: { ...headers, 'content-type': 'text/csv' },
      body: ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]),
    });
  const received = (traceId: string, name: string) =>
    eventually(
      () => receiver.spans.some(span => span.traceId === traceId && span.name === name),
      name,
    );
  const spanOf = (traceId: string, name: string) =>
    receiver.spans.find(span => span.traceId === traceId && span.name === name);
  return { database, receiver, service, call, ingest, received, spanOf };
}

t.test('traces an ingest and a download with the trace of their callers', async t => {
  const { database, receiver, service, call, ingest, received, spanOf } = await start(t);
  const ingesting = callerTrace();
  await ingest(ingesting.headers);
  const put = 'PUT /v1/environments/:environmentId/snapshots/:date';
  await received(ingesting.traceId, put);
  t.strictSame(receiver.tree(ingesting.traceId).slice(0, 4), [
    put,
    '  wait for a connection',
    '  ingest',
    '    wait for a connection',
  ]);
  t.match(spanOf(ingesting.traceId, 'ingest')?.attributes, {
    'whx.environment.id': 'acme',
    'whx.rows': 2,
  });

  for (const isRendered of [false, true]) {
    if (isRendered) await renderSnapshots(database.pool);
    const caller = callerTrace();
    const answer = await call('/v1/environments/acme/exports/today.csv', {
      headers: caller.headers,
    });
    const requestId = answer.headers['x-request-id'];
    t.equal(answer.headers['x-total-rows'], '2');
    const spans = [
      download,
      '  wait for a connection',
      '  wait for a connection',
      '  read the registry',
      ...(isRendered ? [] : ['  wait for a connection', '  read the registry']),
      '  section',
      // Chunks are read ahead of the section.
      ...(isRendered ? ['  wait for a connection'] : []),
      // The audit line is written after the last byte.
      '  wait for a connection',
    ];
    await eventually(
      () => receiver.tree(caller.traceId).length >= spans.length,
      'all spans of the download',
    );
    t.strictSame(receiver.tree(caller.traceId), spans);
    const root = spanOf(caller.traceId, download);
    t.equal(root?.parentSpanId, caller.spanId, 'the span continues the trace of the caller');
    t.match(root?.attributes, {
      'http.response.status_code': 200,
      'whx.request.id': requestId,
    });
    t.match(spanOf(caller.traceId, 'section')?.attributes, {
      'whx.section.date': today,
      'whx.section.rows': 2,
      'whx.section.rendered': isRendered,
    });
    const lines = service.logged().filter(line => line['requestId'] === requestId);
    t.ok(lines.length >= 2, 'the request’s lines in the log');
    t.ok(
      lines.every(line => line['traceId'] === caller.traceId),
      'each line has the trace',
    );
  }
});

t.test('traces error answers without an error status', async t => {
  const { call, received, spanOf } = await start(t);
  for (const [path, name, status] of [
    ['/v1/environments/nobody', 'GET /v1/environments/:environmentId', 404],
    ['/v1/nothing', 'GET', 404],
    ['/v1/environments/%ff', 'GET', 400],
  ] as const) {
    const caller = callerTrace();
    t.equal((await call(path, { headers: caller.headers })).status, status);
    await received(caller.traceId, name);
    const span = spanOf(caller.traceId, name);
    t.equal(span?.attributes['http.response.status_code'], status, path);
    t.equal(span?.isError, false, 'not an error of the service');
  }
});

t.test('continues the trace of a manual run in the worker process', needsS3, async t => {
  const { database, receiver, call, received, spanOf } = await start(t);
  const worker = startServiceProcess(database.url, {
    ...receiver.env,
    PROCESS_ROLE: 'worker',
  });
  t.teardown(() => worker.end('SIGTERM'));
  // The file needs several parts of 8 MiB.
  await fillSnapshot(database.pool, 'acme', today, 120_000);
  const configs = '/v1/environments/acme/export-configs';
  const made = await call(configs, { method: 'POST', body: JSON.stringify(configBody()) });
  const caller = callerTrace();
  const started = await call(`${configs}/${made.json.id}/runs`, {
    method: 'POST',
    headers: caller.headers,
    body: '{}',
  });
  const run = started.json;
  await until(
    async () => (await call(`/v1/environments/acme/runs/${run.id}`)).json,
    found => found.state === 'successful',
  );
  await received(caller.traceId, 'run');
  const tree = receiver.tree(caller.traceId);
  t.equal(tree[0], 'POST /v1/environments/:environmentId/export-configs/:configId/runs');
  const ofRun = tree.slice(tree.indexOf('  run'));
  t.strictSame(
    [...new Set(ofRun)].toSorted(),
    [
      '  run',
      '    wait for a connection',
      '    read the registry',
      '    render',
      '    section',
      '    upload',
      '      CreateMultipartUpload',
      '      UploadPart',
      '      CompleteMultipartUpload',
      // The worker records that the upload is about to be completed.
      '        wait for a connection',
      // The worker stores the upload id.
      '      wait for a connection',
    ].toSorted(),
  );
  t.ok(ofRun.filter(line => line === '      UploadPart').length > 1);
  t.match(spanOf(caller.traceId, 'run')?.attributes, {
    'whx.run.id': run.id,
    'whx.config.id': made.json.id,
    'whx.outcome': 'successful',
  });
  const line = worker.logged().find(found => found['msg'] === 'run');
  t.match(line, {
    runId: run.id,
    requestId: started.headers['x-request-id'],
    traceId: caller.traceId,
  });
});

t.test('sends no secrets, links or paths in traces', needsS3, async t => {
  const { receiver, call, ingest, received } = await start(t);
  await ingest();
  const key = await call('/v1/environments/acme/api-keys', {
    method: 'POST',
    body: JSON.stringify({ name: 'test', scopes: ['exports:read'] }),
  });
  const authorization = { authorization: `Bearer ${registerSecret(key.json.key)}` };
  const links = '/v1/environments/acme/download-links';
  const made = await call(links, {
    method: 'POST',
    headers: authorization,
    body: '{"aggregation":"today"}',
  });
  const token = registerSecret(new URL(made.json.url).pathname.replace('/v1/downloads/', ''));
  await call('/v1/environments/acme/export-configs', {
    method: 'POST',
    body: JSON.stringify(configBody('nothing')),
  });
  const caller = callerTrace();
  t.equal(
    (await call(`/v1/downloads/${token}?more=${token}`, { headers: caller.headers })).status,
    200,
  );
  await received(caller.traceId, 'GET /v1/downloads/:token');
  const sent = receiver.bodies.join('\n');
  for (const secret of usedSecrets()) t.notOk(sent.includes(secret), 'a secret of the tests');
  t.notMatch(sent, /downloads\/(?!:token)/);
});

t.test('sends the recorded spans on SIGTERM', async t => {
  const { receiver, service, call, spanOf } = await start(t, { OTEL_BSP_SCHEDULE_DELAY: '600000' });
  const caller = callerTrace();
  await call('/v1/environments/acme', { headers: caller.headers });
  t.equal(receiver.spans.length, 0);
  t.equal(await service.end('SIGTERM'), 0);
  t.ok(spanOf(caller.traceId, 'GET /v1/environments/:environmentId'));
});

t.test('sends nothing if tracing is disabled, and works without a receiver', async t => {
  for (const env of [{ OTEL_SDK_DISABLED: 'true' }, { OTEL_TRACES_EXPORTER: 'none' }]) {
    const { receiver, service, call } = await start(t, env);
    t.equal((await call('/v1/environments/acme', callerTrace())).status, 200);
    t.equal(await service.end('SIGTERM'), 0);
    t.equal(receiver.bodies.length, 0, JSON.stringify(env));
  }
  for (const endpoint of ['http://127.0.0.1:1', 'not a url']) {
    const { service, call } = await start(t, { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint });
    t.equal((await call('/v1/environments/acme')).status, 200, endpoint);
    t.equal(await service.end('SIGTERM'), 0, endpoint);
  }
});
