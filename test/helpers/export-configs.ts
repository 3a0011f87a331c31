import type { S3User } from '../../dev/s3-server.ts';
import { startWorker } from '../../src/worker.ts';
import { startTestApp, type TestApp } from './app.ts';
import { freshPrefix, s3Server } from './s3.ts';
import { waitFor } from './wait-for.ts';

type Options = Parameters<typeof startTestApp>[1];

/** Starts the service with permission to connect to the test's S3 server. */
export async function startExportApp(t: Parameters<typeof startTestApp>[0], options: Options = {}) {
  return await startTestApp(t, {
    ...options,
    env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1', ...options?.env },
  });
}

/** Returns the body of a config that the S3 server accepts, with a separate folder. */
export function configBody(user: S3User = 'full', overrides: object = {}) {
  const { endpoint, bucket, region } = s3Server();
  return {
    name: 'Nightly',
    schedule: 'daily',
    provider: 'custom',
    endpoint,
    bucket,
    region,
    key: freshPrefix(),
    ...credentialsOf(user),
    ...overrides,
  };
}

/** Returns the key pair of a user of the S3 server. */
export function credentialsOf(user: S3User) {
  // The S3 client changes the object that it receives, so this is a copy.
  const { accessKeyId, secretAccessKey } = s3Server().users[user];
  return { accessKeyId, secretAccessKey };
}

/** Creates a config and returns the answer. */
export async function makeConfig(app: TestApp, environmentId: string, body: object = configBody()) {
  const answer = await app.call(`/v1/environments/${environmentId}/export-configs`, {
    method: 'POST',
    json: body,
  });
  if (answer.status !== 201) throw new Error(answer.text);
  return answer.json;
}

/** Starts a worker in this process, with the app's clock. */
export function startExportWorker(t: Parameters<typeof startTestApp>[0], app: TestApp) {
  const { dependencies, config } = app;
  const { jobs } = dependencies;
  const worker = startWorker({
    ...dependencies,
    encryptionKeys: config.encryptionKeys,
    retention: config.retention,
    chunkGraceMinutes: config.chunkGraceMinutes,
  });
  let stopped: Promise<void> | null = null;
  const stop = () => {
    stopped ??= worker.stop();
    return stopped;
  };
  t.teardown(stop);
  return {
    stop,
    /** Makes every queue look for jobs now. It would otherwise do so within 1 to 10 s. */
    wake: () => {
      for (const { id } of jobs.getWipData()) jobs.notifyWorker(id);
    },
  };
}

export function runReader(app: TestApp, environmentId: string) {
  const read = async (runId: string) =>
    (await app.call(`/v1/environments/${environmentId}/runs/${runId}`)).json;
  return {
    read,
    finished: (runId: string, limitMs?: number) =>
      waitFor(`the end of run ${runId}`, () => read(runId), {
        isWanted: run => run.state === 'successful' || run.state === 'failed',
        limitMs,
      }),
  };
}
