import { setTimeout as delay } from 'node:timers/promises';
import type { S3User } from '../../dev/s3-server.ts';
import { startWorker } from '../../src/worker.ts';
import { startTestApp, type TestApp } from './app.ts';
import { freshPrefix, s3Server } from './s3.ts';

type Options = Parameters<typeof startTestApp>[1];

/** The service with leave to reach the test's S3 server. */
export async function startExportApp(t: Parameters<typeof startTestApp>[0], options: Options = {}) {
  return await startTestApp(t, {
    ...options,
    env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1', ...options?.env },
  });
}

/** A body that the S3 server agrees with, in a folder of its own. */
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

/** Of a user of the S3 server. */
export function credentialsOf(user: S3User) {
  // The S3 client writes into the object that it is given.
  const { accessKeyId, secretAccessKey } = s3Server().users[user];
  return { accessKeyId, secretAccessKey };
}

/** Makes one and gives the answer back. */
export async function makeConfig(app: TestApp, environmentId: string, body: object = configBody()) {
  const answer = await app.call(`/v1/environments/${environmentId}/export-configs`, {
    method: 'POST',
    json: body,
  });
  if (answer.status !== 201) throw new Error(answer.text);
  return answer.json;
}

/** A worker in this process, with the app's clock. */
export function startExportWorker(t: Parameters<typeof startTestApp>[0], app: TestApp) {
  const { dependencies, config } = app;
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
  return { stop };
}

/** Asks until the answer is as wanted. @throws when it is not within the limit */
export async function until<T>(
  ask: () => Promise<T>,
  isWanted: (answer: T) => boolean,
  limitMs = 30_000,
): Promise<T> {
  const deadline = Date.now() + limitMs;
  while (true) {
    const answer = await ask();
    if (isWanted(answer)) return answer;
    if (Date.now() > deadline)
      throw new Error(`not within ${limitMs} ms: ${JSON.stringify(answer)}`);
    await delay(50);
  }
}

export function runReader(app: TestApp, environmentId: string) {
  const read = async (runId: string) =>
    (await app.call(`/v1/environments/${environmentId}/runs/${runId}`)).json;
  return {
    read,
    finished: (runId: string, limitMs?: number) =>
      until(
        () => read(runId),
        run => run.state === 'successful' || run.state === 'failed',
        limitMs,
      ),
  };
}
