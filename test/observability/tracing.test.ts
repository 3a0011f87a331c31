import { randomBytes } from 'node:crypto';
import t from 'tap';
import { startTracing } from '../../src/observability/start-tracing.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { configBody, makeConfig, runReader, startExportApp } from '../helpers/export-configs.ts';
import { ask } from '../helpers/http-client.ts';
import { renderSnapshots } from '../helpers/render-snapshots.ts';
import { needsS3 } from '../helpers/s3.ts';
import { registerSecret, testAdminToken, usedSecrets } from '../helpers/secrets.ts';
import { startApiProcess, startServiceProcess } from '../helpers/service-process.ts';
import { startTraceReceiver } from '../helpers/trace-receiver.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

/** Tests the traces of a service that sends them to a receiver on loopback. */

const today = new Date().toISOString().slice(0, 10);
const download = 'GET /v1/environments/:environmentId/exports/:aggregation.csv';

t.setTimeout(600_000);

/** Creates the trace context of a caller. */
function callerTrace() {
  const traceId = randomBytes(16).toString('hex');
  const spanId = randomBytes(8).toString('hex');
  return { traceId, spanId, headers: { traceparent: `00-${traceId}-${spanId}-01` } };
}

const receiver = await startTraceReceiver();
t.teardown(receiver.close);
// The worker of a test uses the clock of the machine.
const app = await startExportApp(t, { now: new Date().toISOString() });
const { pool } = app.database;
// The SDK reads the variables of the process.
Object.assign(process.env, receiver.env);
const tracing = await startTracing(app.dependencies.log);
t.teardown(tracing.stop);

const received = (traceId: string, name: string) =>
  waitFor(`a span named ${name}`, () => spanOf(traceId, name) !== undefined);
const spanOf = (traceId: string, name: string) =>
  receiver.spans.find(span => span.traceId === traceId && span.name === name);

t.test('traces an ingest and a download with the trace of their callers', async t => {
  await app.putEnvironment('acme');
  const ingesting = callerTrace();
  const body = ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]);
  await app.ingest('acme', today, body, ingesting.headers);
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
    if (isRendered) await renderSnapshots(pool);
    const caller = callerTrace();
    const answer = await app.download('acme', 'today', caller.headers);
    const requestId = answer.headers['x-request-id'];
    t.equal(answer.headers['x-total-rows'], '2');
    const spans = [
      download,
      '  read the registry',
      ...(isRendered ? [] : ['  read the registry']),
      '  section',
    ];
    const waits = 4;
    await waitFor(
      'all spans of the download',
      () => receiver.tree(caller.traceId).length >= spans.length + waits,
    );
    // Start times are in whole milliseconds, and a wait can begin in that of another span.
    const isWait = (line: string) => line === '  wait for a connection';
    const tree = receiver.tree(caller.traceId);
    t.strictSame(
      tree.filter(line => !isWait(line)),
      spans,
    );
    t.equal(tree.filter(isWait).length, waits);
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
    const lines = app.log.filter(line => line['requestId'] === requestId);
    t.ok(lines.length >= 2, 'the request’s lines in the log');
    t.ok(
      lines.every(line => line['traceId'] === caller.traceId),
      'each line has the trace',
    );
  }
});

t.test('traces error answers without an error status', async t => {
  for (const [path, name, status] of [
    ['/v1/environments/nobody', 'GET /v1/environments/:environmentId', 404],
    ['/v1/nothing', 'GET', 404],
    ['/v1/environments/%ff', 'GET', 400],
  ] as const) {
    const caller = callerTrace();
    t.equal((await app.call(path, { headers: caller.headers })).status, status);
    await received(caller.traceId, name);
    const span = spanOf(caller.traceId, name);
    t.equal(span?.attributes['http.response.status_code'], status, path);
    t.equal(span?.isError, false, 'not an error of the service');
  }
});

t.test('sends the trace of a manual run when its worker shuts down', needsS3, async t => {
  await app.putEnvironment('with-run');
  const worker = startServiceProcess(app.database.url, {
    ...receiver.env,
    OTEL_BSP_SCHEDULE_DELAY: '600000',
    PROCESS_ROLE: 'worker',
  });
  t.teardown(() => worker.end('SIGTERM'));
  // The file needs two parts of 8 MiB.
  const snapshot = { environmentId: 'with-run', date: today, rows: 100, nameBytes: 90_000 };
  await writeWideSnapshot(pool, snapshot);
  const config = await makeConfig(app, 'with-run');
  const caller = callerTrace();
  const started = await app.call(`/v1/environments/with-run/export-configs/${config.id}/runs`, {
    method: 'POST',
    headers: caller.headers,
    json: {},
  });
  const run = started.json;
  await waitFor('a successful run', () => runReader(app, 'with-run').read(run.id), {
    isWanted: found => found.state === 'successful',
    // The worker starts meanwhile.
    limitMs: 90_000,
  });
  t.equal(spanOf(caller.traceId, 'run'), undefined, 'the worker waits for more spans');
  t.equal(await worker.end('SIGTERM'), 0);
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
    'whx.config.id': config.id,
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
  await app.putEnvironment('with-secrets');
  await app.ingest('with-secrets', today, ingestBody([adoptionRow()]));
  const key = await app.makeKey('with-secrets', ['exports:read']);
  const made = await app.call('/v1/environments/with-secrets/download-links', {
    method: 'POST',
    token: key.token,
    json: { aggregation: 'today' },
  });
  const token = registerSecret(new URL(made.json.url).pathname.replace('/v1/downloads/', ''));
  await app.call('/v1/environments/with-secrets/export-configs', {
    method: 'POST',
    json: configBody('nothing'),
  });
  const caller = callerTrace();
  t.equal(
    (await app.call(`/v1/downloads/${token}?more=${token}`, { headers: caller.headers })).status,
    200,
  );
  await received(caller.traceId, 'GET /v1/downloads/:token');
  const sent = receiver.bodies.join('\n');
  for (const secret of usedSecrets()) t.notOk(sent.includes(secret), 'a secret of the tests');
  t.notMatch(sent, /downloads\/(?!:token)/);
});

t.test('works without a receiver', async t => {
  await app.putEnvironment('untraced');
  const service = await startApiProcess(app.database.url, {
    SHUTDOWN_DRAIN_SECONDS: '0',
    // Spans go to the default port, where nothing listens.
    OTEL_EXPORTER_OTLP_ENDPOINT: 'not a url',
  });
  t.teardown(() => service.end('SIGKILL'));
  const authorization = `Bearer ${testAdminToken}`;
  const url = `${service.origin}/v1/environments/untraced`;
  t.equal((await ask(url, { headers: { authorization } })).status, 200);
  t.equal(await service.end('SIGTERM'), 0);
  t.ok(service.logged().some(({ msg }) => msg === 'tracing warning'));
});
