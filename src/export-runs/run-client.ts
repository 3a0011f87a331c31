import type { S3Client } from '@aws-sdk/client-s3';
import { createS3Client, runTimeouts } from '../destinations/s3/client.ts';
import type { StoragePace } from '../destinations/s3/request-handler.ts';
import type { ExportConfig } from '../export-configs/repository.ts';
import { accessOf } from '../export-configs/service.ts';
import type { RunDependencies } from './run-dependencies.ts';

type ClientDependencies = Pick<RunDependencies, 'encryptionKeys' | 'clientEnvironment'>;

/**
 * Creates the S3 client of a run.
 * @throws Error if the secret cannot be decrypted
 */
export function makeClient(
  { encryptionKeys, clientEnvironment }: ClientDependencies,
  config: ExportConfig,
  pace?: StoragePace,
): S3Client {
  const access = accessOf({ encryptionKeys }, config);
  return createS3Client(config.destination, access, clientEnvironment, runTimeouts, pace);
}

/**
 * Creates the S3 client of a run. Returns null if the secret cannot be decrypted. The attempt
 * reports that when it needs the secret.
 */
export function openClient(
  dependencies: ClientDependencies,
  config: ExportConfig,
  pace?: StoragePace,
): S3Client | null {
  try {
    return makeClient(dependencies, config, pace);
  } catch {
    return null;
  }
}
