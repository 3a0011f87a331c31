import { type AutomaticExports, configBody } from './automatic-exports.ts';
import type { EmbeddedStorage } from './embedded-storage.ts';
import type { TourSection } from './tour.ts';

interface Places {
  /** Origin of the service. */
  readonly url: string;
  readonly enterpriseKey: string;
  readonly storage: EmbeddedStorage;
  readonly automaticExports: AutomaticExports;
}

/** The export to a bucket: from a key that does not work to the file. */
export function automaticExportTour({
  url,
  enterpriseKey,
  storage,
  automaticExports,
}: Places): TourSection {
  const { environmentId, healthyConfigId, brokenConfigId, fileUrl } = automaticExports;
  const curl = (path: string, body?: Record<string, unknown>) =>
    `curl -sS -w '\\n' -H 'Authorization: Bearer ${enterpriseKey}' ${url}/v1/environments/${environmentId}/export-configs${path}` +
    (body === undefined ? '' : ` -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`);
  const works = configBody(storage, 'My own', storage.buckets.kept);
  const bucketUrl = `${storage.endpoint}/${storage.buckets.kept}`;
  return {
    title: 'Export to a bucket (plan enterprise)',
    stops: [
      {
        title: 'Save with a key that the bucket does not know: refused, with what to change',
        command: curl('', { ...works, accessKeyId: 'WRONGKEY' }),
      },
      {
        title: 'Save with the right key: the bucket was asked for the right to list and to write',
        command: curl('', works),
      },
      {
        title: 'A config that works: how it stands, and when it runs next',
        command: curl(`/${healthyConfigId}/status`),
      },
      {
        title: 'A config whose bucket is gone: the error of its last run',
        command: curl(`/${brokenConfigId}/status`),
      },
      { title: 'Run now', command: `${curl(`/${healthyConfigId}/runs`)} -X POST` },
      {
        title: 'The runs, newest first: one of last night, the others by hand',
        command: curl(`/${healthyConfigId}/runs`),
      },
      {
        title: 'What is in the bucket',
        command: `curl -sS '${bucketUrl}?list-type=2' | grep -o '<Key>[^<]*' | cut -c 6-`,
      },
      { title: 'The file of last night', command: `curl -sS ${fileUrl} | sed -n 1,3p` },
    ],
  };
}
