import type http from 'node:http';
import t from 'tap';
import type { SlowLane } from '../../src/export-runs/slow-lane.ts';
import { fakeEndpoint, listDocument } from '../destinations/s3/fake-endpoint.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import {
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { isFullScale } from '../helpers/scale.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** A worker stays useful and its log short while a storage answers with bad intent. */

t.setTimeout(300_000);

type Answer = (request: http.IncomingMessage, response: http.ServerResponse) => void;
type Step = 'check' | 'list uploads' | 'put' | 'create' | 'abort';

const secretAccessKey = registerSecret('hostile-secret-of-the-storage');
const longMessage = 'x'.repeat(50_000);

let steps: Partial<Record<Step, Answer>> = {};
const seen: Step[] = [];
const count = (step: Step) => seen.filter(each => each === step).length;

function stepOf({ method, url = '' }: http.IncomingMessage): Step {
  if (method === 'DELETE') return 'abort';
  if (method === 'PUT') return 'put';
  if (method === 'POST') return 'create';
  return /[?&]uploads\b/.test(url) ? 'list uploads' : 'check';
}

const usual: Record<Step, Answer> = {
  check: (_, response) => response.end(listDocument),
  'list uploads': (_, response) => response.end('<ListMultipartUploadsResult/>'),
  put: (_, response) => response.setHeader('etag', '"e"').end(),
  create: (_, response) =>
    response.end(
      '<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>',
    ),
  abort: (_, response) => response.writeHead(204).end(),
};
const refuse: Answer = (_, response) =>
  response
    .writeHead(503)
    .end(`<Error><Code>SlowDown${longMessage}</Code><Message>${longMessage}</Message></Error>`);
/** Lists 30 uploads of the key that the request names. */
const listMany: Answer = ({ url = '' }, response) => {
  const key = new URL(url, 'http://a').searchParams.get('prefix');
  const uploads = Array.from(
    { length: 30 },
    (_, index) => `<Upload><Key>${key}</Key><UploadId>u${index}</UploadId></Upload>`,
  );
  response.end(`<ListMultipartUploadsResult>${uploads.join('')}</ListMultipartUploadsResult>`);
};

const endpoint = await fakeEndpoint((request, response) => {
  const step = stepOf(request);
  seen.push(step);
  (steps[step] ?? usual[step])(request, response);
});
t.teardown(endpoint.close);

let isLaneFull = false;
const app = await startExportApp(t, {
  adjust: dependencies => {
    const { slowLane } = dependencies;
    const admit: SlowLane['admit'] = (...run) => (isLaneFull ? null : slowLane.admit(...run));
    return { ...dependencies, slowLane: { admit } };
  },
});
startExportWorker(t, app);

/** Starts a run whose first attempt fails, and waits until it is queued again. */
async function failOnce(environmentId: string) {
  // Runs of other tests must not send requests.
  await app.database.pool.query('delete from environments');
  await app.putEnvironment(environmentId);
  await app.ingest(environmentId, '2026-03-01', ingestBody([adoptionRow()]));
  steps = {};
  const { id } = await makeConfig(app, environmentId, {
    name: 'Hostile',
    schedule: 'daily',
    provider: 'custom',
    endpoint: endpoint.destination.endpoint,
    bucket: 'acme',
    region: 'auto',
    accessKeyId: 'AKIAHOSTILE',
    secretAccessKey,
  });
  steps = { put: refuse };
  const path = `/v1/environments/${environmentId}`;
  const started = await app.call(`${path}/export-configs/${id}/runs`, { method: 'POST' });
  const runs = runReader(app, environmentId);
  const run = await waitFor('the end of the first attempt', () => runs.read(started.json.id), {
    isWanted: ({ state, attempts }) => state === 'queued' && attempts === 1,
  });
  // The queue records the failure after the run does. `hasten` needs a job that waits.
  await waitFor('a job that waits', async () => {
    const { rowCount } = await app.database.pool.query(
      `select from pgboss.job where data->>'runId' = $1 and state = 'retry'`,
      [run.id],
    );
    return rowCount === 1;
  });
  steps = {};
  seen.length = 0;
  return {
    path,
    configId: id,
    run,
    runs,
    finished: (limitMs?: number) => runs.finished(run.id, limitMs),
  };
}
const hasten = () => hastenRetries(app.database.pool);

t.test('cuts the text of a storage in runs and in the log', async t => {
  const { run } = await failOnce('text');
  t.equal(run.error.code, 'storage_unavailable');
  t.ok(JSON.stringify(run.error).length < 1_000, 'the error of the run is short');
  const lengths = app.log.map(line => JSON.stringify(line).length);
  t.ok(Math.max(...lengths) < 8_000, `the longest line has ${Math.max(...lengths)} characters`);
});

t.test('aborts at most 20 of the uploads that a storage lists before an attempt', async t => {
  const { finished } = await failOnce('uploads');
  steps = { 'list uploads': listMany };
  await hasten();
  t.match(await finished(), { state: 'successful', attempts: 2 });
  t.equal(count('list uploads'), 1);
  t.equal(count('abort'), 20);
});

t.test('ends a cancelled run before it cleans up', async t => {
  const { path, finished } = await failOnce('lowered');
  let isOpen = false;
  steps = {
    'list uploads': (_, response) => {
      isOpen = true;
      response.once('close', () => {
        isOpen = false;
      });
    },
  };
  await app.putEnvironment('lowered', 'pro');
  await hasten();
  const { error } = await finished();
  t.equal(error.code, 'plan_upgrade_required');
  await waitFor('a request that lists uploads', () => isOpen);
  t.equal((await app.call(path, { method: 'DELETE' })).status, 204);
  await waitFor('the end of that request', () => isOpen, {
    isWanted: open => !open,
    // The request itself would end after 20 s.
    limitMs: 15_000,
  });
  t.equal(count('put'), 0, 'nothing is uploaded');
});

t.test('cleans up cancelled runs of slow storages in the slow lane', async t => {
  const { path, configId } = await failOnce('cancelled');
  isLaneFull = true;
  await app.call(`${path}/export-configs/${configId}`, { method: 'DELETE' });
  await hasten();
  await waitFor(
    'a cleanup that waits for the slow lane',
    async () => {
      const { rows } = await app.database.pool.query<{ output: string }>(
        `select output::text from pgboss.job
         where data->>'environmentId' = 'cancelled' and state = 'retry'`,
      );
      return rows[0]?.output ?? '';
    },
    { isWanted: output => output.includes('slow lane') },
  );
  t.strictSame(seen, [], 'no request is sent while the lane is full');
  isLaneFull = false;
  await hasten();
  await waitFor('a request that lists uploads', () => count('list uploads'), {
    isWanted: listed => listed === 1,
  });
  t.equal((await app.call(`${path}/export-configs/${configId}`)).status, 404);
});

t.test('sweeps for at most a minute', isFullScale ? {} : { skip: 'takes a minute' }, async t => {
  const { finished } = await failOnce('slow');
  steps = {
    'list uploads': listMany,
    abort: (_, response) => setTimeout(() => response.writeHead(204).end(), 5_000),
  };
  const startedAt = performance.now();
  await hasten();
  t.match(await finished(90_000), { state: 'successful' });
  const seconds = (performance.now() - startedAt) / 1000;
  t.ok(seconds > 55 && seconds < 75, `${Math.round(seconds)} s`);
  t.ok(count('abort') <= 13, `${count('abort')} uploads`);
});
