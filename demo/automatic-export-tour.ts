import type { EmbeddedS3Server } from '../dev/embedded-s3-server.ts';
import { type AutomaticExports, configBody } from './automatic-exports.ts';
import { curlWords, type TourSection, wrap, wrapJson } from './tour.ts';

interface Places {
  readonly storage: EmbeddedS3Server;
  readonly automaticExports: AutomaticExports;
}

/** Returns the commands of an automatic export, from a wrong key to the file in the bucket. */
export function automaticExportTour({ storage, automaticExports }: Places): TourSection {
  const { environmentId, healthyConfigId, brokenConfigId, fileUrl } = automaticExports;
  const curl = (path: string, ...options: string[]) =>
    curlWords(`${environmentId}/export-configs${path}`, 'enterprise_key', [
      '-sS',
      `-w '\\n'`,
      ...options,
    ]);
  const create = (body: Record<string, unknown>) =>
    wrap([...curl(''), "-H 'Content-Type: application/json'", `-d ${wrapJson(body)}`]);
  const works = { ...configBody(storage, 'My own', storage.buckets.kept), key: 'my-own' };
  const bucketUrl = `${storage.endpoint}/${storage.buckets.kept}`;
  return {
    title: 'Export to a bucket (plan enterprise)',
    stops: [
      {
        title: 'Save with a wrong key: refused, and the answer says what to change',
        command: create({ ...works, accessKeyId: 'WRONGKEY' }),
      },
      {
        title: 'Save with the right key: the service lists and writes as a test, then saves',
        command: create(works),
      },
      {
        title: 'A config that works: its last run, and when it runs next',
        command: wrap(curl(`/${healthyConfigId}/status`)),
      },
      {
        title: 'A config whose bucket was deleted: the error of its last run',
        command: wrap(curl(`/${brokenConfigId}/status`)),
      },
      { title: 'Run now', command: wrap(curl(`/${healthyConfigId}/runs`, '-X POST')) },
      {
        title: 'The runs, newest first: last night’s scheduled run and the manual runs',
        command: wrap(curl(`/${healthyConfigId}/runs`)),
      },
      {
        title: 'The objects in the bucket',
        command: wrap([
          `curl -sS '${bucketUrl}?list-type=2'`,
          "| grep -o '<Key>[^<]*' | cut -c 6-",
        ]),
      },
      {
        title: 'The file of last night’s run',
        command: wrap([`curl -sS ${fileUrl}`, '| sed -n 1,3p']),
      },
    ],
  };
}
