import { setTimeout as delay } from 'node:timers/promises';
import type { Client, CustomExportConfigInput, Run } from '@warehouse-export/client';
import type { EmbeddedS3Server } from '../dev/embedded-s3-server.ts';
import { tickQueue } from '../src/db/job-queue.ts';
import type { RunningService } from './start-service.ts';
import { dayMs } from './story.ts';

/** Two export configs. Each has a manual run and a scheduled run of last night. */
export interface AutomaticExports {
  readonly environmentId: string;
  readonly healthyConfigId: string;
  /** Config whose bucket was deleted. */
  readonly brokenConfigId: string;
  /** URL of the file of last night's scheduled run. */
  readonly fileUrl: string;
}

interface Options {
  readonly client: Client;
  readonly environmentId: string;
  readonly storage: EmbeddedS3Server;
  readonly service: Pick<RunningService, 'db' | 'jobs'>;
  readonly now: () => Date;
  readonly signal: AbortSignal;
}

/** Longest time for a run to finish. It starts within seconds, or at the next minute. */
const runDeadlineMs = 120_000;

/** Returns the body of a config for the embedded endpoint. */
export function configBody(
  storage: EmbeddedS3Server,
  name: string,
  bucket: string,
): CustomExportConfigInput {
  return {
    name,
    schedule: 'daily',
    provider: 'custom',
    endpoint: storage.endpoint,
    region: storage.region,
    bucket,
    key: 'exports',
    accessKeyId: storage.accessKeyId,
    secretAccessKey: storage.secretAccessKey,
  };
}

/**
 * Creates a config that works and one whose bucket is then deleted. Waits for a manual and a
 * scheduled run of each.
 */
export async function runAutomaticExports(options: Options): Promise<AutomaticExports> {
  const { client, environmentId, storage, service, signal } = options;
  const { kept, doomed } = storage.buckets;
  const healthyConfigId = await createConfig(options, {
    ...configBody(storage, 'Nightly', kept),
    manifest: true,
  });
  const brokenConfigId = await createConfig(
    options,
    configBody(storage, 'To a deleted bucket', doomed),
  );
  await fetch(`${storage.endpoint}/${doomed}`, { method: 'DELETE', signal });
  const ids = [healthyConfigId, brokenConfigId];

  for (const configId of ids) {
    await client.api.startRun({ path: { environmentId, configId }, signal });
  }
  for (const id of ids) await untilFinished(options, id, 'manual');

  // Dates the configs back, so that the next tick finds last night's slot overdue.
  await service.db
    .updateTable('export_configs')
    .set({ active_since: new Date(options.now().getTime() - 2 * dayMs) })
    .where('environment_id', '=', environmentId)
    .execute();
  await service.jobs.send(tickQueue, {});
  const [{ objectKey }] = [
    await untilFinished(options, healthyConfigId, 'schedule'),
    await untilFinished(options, brokenConfigId, 'schedule'),
  ];
  return {
    environmentId,
    healthyConfigId,
    brokenConfigId,
    fileUrl: `${storage.endpoint}/${kept}/${objectKey}`,
  };
}

async function createConfig(
  { client, environmentId, signal }: Options,
  body: CustomExportConfigInput,
): Promise<string> {
  const path = { environmentId };
  return (await client.api.createExportConfig({ path, body, signal })).id;
}

async function untilFinished(
  { client, environmentId, signal }: Options,
  configId: string,
  trigger: Run['trigger'],
): Promise<Run> {
  const deadline = Date.now() + runDeadlineMs;
  while (Date.now() < deadline) {
    const { items } = await client.api.listRuns({ path: { environmentId, configId }, signal });
    const run = items.find(item => item.trigger === trigger);
    if (run?.state === 'successful' || run?.state === 'failed') return run;
    await delay(100, undefined, { signal });
  }
  throw new Error(
    `The ${trigger} run of ${configId} did not finish within ${runDeadlineMs / 1000} s.`,
  );
}
