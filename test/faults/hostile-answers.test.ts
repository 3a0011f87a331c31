import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { Worker } from 'node:worker_threads';
import t, { type Test } from 'tap';
import type { Destination } from '../../src/destinations/destination.ts';
import { abortOrphanedUploads } from '../../src/destinations/s3/abort-upload.ts';
import { checkDestination } from '../../src/destinations/s3/check.ts';
import { createS3Client, runTimeouts } from '../../src/destinations/s3/client.ts';
import { uploadObject } from '../../src/destinations/s3/upload.ts';
import { createIssuerKeys } from '../../src/environments/auth/jwks.ts';
import { parseEndpointAllowlist } from '../../src/outbound/endpoint-allowlist.ts';
import { sendWebhook } from '../../src/webhooks/send-webhook.ts';
import { makeWebhookSecret } from '../../src/webhooks/signature.ts';
import { uploadRequest } from '../destinations/s3/test-source.ts';
import { peakMemoryMib } from '../helpers/live-memory.ts';
import { longestBlockMs } from '../helpers/longest-block.ts';
import { scaled } from '../helpers/scale.ts';
import { registerSecret } from '../helpers/secrets.ts';
import {
  type AnswerSpec,
  bodies,
  endlessAnswers,
  framings,
  keySets,
  kib,
} from './hostile-bodies.ts';

/** No answer of an endpoint blocks the event loop or keeps a call beyond its limit. */

t.setTimeout(600_000);

const maxBlockMs = 50;
/** Calls end after at most 10 s. A busy machine needs some time more. */
const maxCallMs = 25_000;
const environment = { allowlist: parseEndpointAllowlist(['127.0.0.1']) };
const credentials = { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' };

const sizes = [
  // Just below the size limit, because the generated bodies add markup.
  62 * kib,
  ...(scaled(2, 1) === 2 ? [94 * kib] : []),
  scaled(4_096, 512) * kib,
];

const worker = new Worker(new URL('hostile-endpoint.ts', import.meta.url), {
  // No modules of the test runner: they would post other messages to this thread.
  execArgv: [],
});
const [{ port }] = (await once(worker, 'message')) as [AddressInfo];
t.teardown(() => worker.terminate());
const origin = `http://127.0.0.1:${port}`;
const destination: Destination = {
  provider: 'custom',
  bucket: 'acme',
  region: 'us-east-1',
  key: 'exports',
  endpoint: origin,
};

async function answerWith(spec: AnswerSpec): Promise<void> {
  worker.postMessage(spec);
  await once(worker, 'message');
}

const key = 'exports/file.csv';
const check = () =>
  checkDestination(
    { destination, access: credentials, objectKey: key, limitMs: 5_000 },
    environment,
  );

async function withClient<T>(use: (client: ReturnType<typeof createS3Client>) => Promise<T>) {
  const timeouts = { ...runTimeouts, maxAttempts: 1, answerMs: 5_000, completeMs: 5_000 };
  const client = createS3Client(destination, credentials, environment, timeouts);
  try {
    return await use(client);
  } finally {
    client.destroy();
  }
}

const upload = (size: number) =>
  withClient(client => uploadObject(client, uploadRequest(destination, size, { key })));
const sweep = () =>
  withClient(client =>
    abortOrphanedUploads(client, destination, key, [], AbortSignal.timeout(5_000)),
  );
const secret = registerSecret(makeWebhookSecret());
const webhook = () =>
  sendWebhook(environment, `${origin}/hook`, secret, { id: 'm', body: '{}' }, new Date());
const issuerKeys = async () =>
  await createIssuerKeys(new URL(`${origin}/jwks`), { now: () => new Date(), onError: () => {} })(
    { alg: 'RS256', kid: 'k' },
    { payload: '', signature: '' },
  );

const calls: Record<string, () => Promise<unknown>> = {
  check,
  'small upload': () => upload(100),
  sweep,
  webhook,
  'key set': issuerKeys,
};

/** Returns the longest block of the event loop by a call and its duration, in milliseconds. */
async function measure(call: () => Promise<unknown>) {
  let tookMs = 0;
  const blockMs = await longestBlockMs(async () => {
    const startedAt = performance.now();
    await call().catch(() => {});
    tookMs = performance.now() - startedAt;
  }, maxBlockMs);
  return { blockMs, tookMs };
}

// The first calls load modules and compile code.
for (let round = 0; round < 5; round += 1) {
  for (const call of Object.values(calls)) await call().catch(() => {});
}

t.test('accepts the answers of a working storage', async t => {
  await answerWith({ kind: 'working' });
  t.equal((await check()).valid, true);
  t.match(await upload(100), { bytes: 100 });
  t.equal(await sweep(), 0);
  t.match(await webhook(), { delivered: true });
});

function judge(t: Test, title: string, { blockMs, tookMs }: { blockMs: number; tookMs: number }) {
  t.ok(blockMs < maxBlockMs, `${title}: blocked for ${Math.round(blockMs)} ms`);
  t.ok(tookMs < maxCallMs, `${title}: took ${Math.round(tookMs)} ms`);
}

for (const size of sizes) {
  t.test(`is not blocked by bodies of ${Math.round(size / kib)} KiB`, async t => {
    for (const name of Object.keys(bodies)) {
      for (const status of scaled(2, 1) === 2 ? [200, 503, 404] : [200, 503]) {
        await answerWith({ kind: 'body', name, size, status });
        for (const [call, make] of Object.entries(calls)) {
          judge(t, `${call}, ${status} with ${name}`, await measure(make));
        }
      }
    }
  });
}

t.test('is not blocked by the headers and the framing of answers', async t => {
  for (const name of Object.keys(framings)) {
    await answerWith({ kind: 'framing', name });
    for (const [call, make] of Object.entries(calls)) {
      judge(t, `${call}, ${name}`, await measure(make));
    }
  }
});

t.test('ends calls whose answers do not end', async t => {
  for (const name of scaled(2, 1) === 2 ? endlessAnswers : endlessAnswers.slice(0, 2)) {
    await answerWith({ kind: 'endless', name });
    // All at once, because each takes up to its time limit.
    const took: Record<string, number> = {};
    const blockMs = await longestBlockMs(
      () =>
        Promise.all(
          Object.entries(calls).map(async ([call, make]) => {
            const startedAt = performance.now();
            await make().catch(() => {});
            took[call] = performance.now() - startedAt;
          }),
        ),
      maxBlockMs,
    );
    for (const [call, tookMs] of Object.entries(took)) {
      judge(t, `${call}, ${name}`, { blockMs, tookMs });
    }
  }
});

t.test('buffers little of a body without end', async t => {
  await answerWith({ kind: 'endless', name: 'a body without end' });
  for (const [call, make] of Object.entries(calls)) {
    const mib = await peakMemoryMib(() => make().catch(() => {}));
    t.ok(mib < 16, `${call}: ${mib.toFixed(1)} MiB more`);
  }
});

t.test('is not blocked by key sets that are expensive to parse', async t => {
  for (const name of Object.keys(keySets)) {
    await answerWith({ kind: 'keySet', name, size: scaled(4_096, 512) * kib });
    judge(t, name, await measure(issuerKeys));
  }
});
