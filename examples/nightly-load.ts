/**
 * Ingests the snapshot of a day, as a backend does every night, and reports the automatic exports.
 *
 *   node examples/nightly-load.ts acme 2026-03-01 snapshot.csv
 *
 * The variables WAREHOUSE_EXPORT_URL and WAREHOUSE_EXPORT_TOKEN name the service and an API key
 * with the scopes `snapshots:write` and `exports:read`. A snapshot is replaced completely or not at
 * all, so the program may be started again at any time. The exit code is 0 only if the snapshot was
 * ingested and no automatic export has failed.
 */
import { openAsBlob } from 'node:fs';
import { ApiError, busyCodes, createClient, retryWhenBusy } from '@warehouse-export/client';

const [environmentId, date, file] = process.argv.slice(2);
const { WAREHOUSE_EXPORT_URL: baseUrl, WAREHOUSE_EXPORT_TOKEN: token } = process.env;
if (!environmentId || !date || !file || !baseUrl || !token) {
  throw new Error('Give an environment, a date and a file, and set the two variables.');
}
const client = createClient({ baseUrl, token });

try {
  // The request contains the digest of the file, so the service refuses an incomplete file.
  const body = await openAsBlob(file);
  const snapshot = await retryWhenBusy(() => client.uploadSnapshot({ environmentId, date, body }), {
    attempts: 8,
    // 429 and 503 have `Retry-After`. 409 means that another process ingests this day. 408 and
    // `digest_mismatch` mean that the body arrived damaged or incomplete.
    codes: [...busyCodes, 'conflict', 'request_timeout', 'digest_mismatch'],
    onRetry: ({ message }, seconds) => console.log(`${message}. Next attempt in ${seconds} s`),
  });
  console.log(`Loaded ${snapshot.rowCount} rows of ${date}, version ${snapshot.version}`);
  await reportExports(environmentId);
} catch (error) {
  if (!(error instanceof ApiError)) throw error;
  process.exitCode = 1;
  console.error(error.message);
  if (error.problem.code === 'snapshot_invalid') {
    console.error(`${error.problem.errorCount} errors. Nothing was changed.`);
  }
}

async function reportExports(environmentId: string): Promise<void> {
  const path = { environmentId };
  for await (const { name, status } of client.iterate('listExportConfigs', { path })) {
    console.log(`${name}: ${status.status}, next export ${status.nextRunAt ?? 'never'}`);
    if (status.error === null) continue;
    process.exitCode = 1;
    console.error(`${name}: ${status.error.message} (${status.error.code})`);
  }
}
