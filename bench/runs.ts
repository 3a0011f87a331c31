import { waitFor } from '../test/helpers/wait-for.ts';
import { copyThrough } from './baselines.ts';
import { type Bench, formatNumber, type Section } from './bench.ts';
import { alternate, type Contender } from './measure.ts';
import { hasProgram } from './processes.ts';
import { forgetRendering, renderDay } from './rendering.ts';
import { type Service, startService } from './service.ts';

interface Run {
  readonly id: string;
  readonly state: string;
  readonly createdAt: string;
  readonly startedAt: string;
  readonly finishedAt: string;
  readonly error: unknown;
}

/** Measures a run to the real S3 server and the shell pipelines that do the same. */
export async function measureRuns(bench: Bench): Promise<Section> {
  const title = `Runs to S3 of ${bench.rows.toLocaleString('en')} rows`;
  const aws = ['/usr/bin/aws', 'aws'].find(hasProgram);
  const missing = [
    ...(bench.s3 === null ? ['no S3 server'] : []),
    ...(aws === undefined ? ['no aws (awscli)'] : []),
    ...(bench.hasPsql ? [] : ['no psql']),
  ];
  if (bench.s3 === null || aws === undefined || missing.length > 0) {
    return {
      title,
      columns: [''],
      rows: [],
      goals: [],
      notes: [`Skipped: ${missing.join(', ')}.`],
      bars: [],
    };
  }
  const { s3 } = bench;
  const env = { PROCESS_ROLE: 'all', S3_ENDPOINT_ALLOWLIST: '127.0.0.1' };
  const service = await startService({ ...bench, env });
  const credentials = {
    AWS_ACCESS_KEY_ID: s3.users.full.accessKeyId,
    AWS_SECRET_ACCESS_KEY: s3.users.full.secretAccessKey,
    AWS_DEFAULT_REGION: s3.region,
    AWS_EC2_METADATA_DISABLED: 'true',
  };
  const upload = `${aws} --endpoint-url ${s3.endpoint} s3 cp --only-show-errors - s3://${s3.bucket}/bench/pipeline`;
  const waits: number[] = [];
  try {
    const [plainId, gzipId] = [
      await makeConfig(service, bench, 'none', 'bench'),
      await makeConfig(service, bench, 'gzip', 'bench'),
    ];
    const ours =
      (configId: string): Contender['run'] =>
      async () => {
        const run = await runNow(service, bench, configId);
        waits.push(Date.parse(run.startedAt) - Date.parse(run.createdAt));
        return (Date.parse(run.finishedAt) - Date.parse(run.startedAt)) / 1000;
      };
    const render = async () => void (await renderDay(bench));
    const forget = () => forgetRendering(bench);
    const names = {
      pipe: 'psql \\copy | aws s3 cp -',
      ours: 'service run, plain',
      gzipPipe: 'psql \\copy | gzip | aws s3 cp -',
      oursGzip: 'service run, gzip',
      unrendered: 'service run, plain, renders first',
    };
    const times = await alternate(
      [
        { name: names.pipe, run: () => copyThrough(bench, upload, credentials) },
        { name: names.ours, prepare: render, run: ours(plainId) },
        { name: names.gzipPipe, run: () => copyThrough(bench, `gzip | ${upload}.gz`, credentials) },
        { name: names.oursGzip, prepare: render, run: ours(gzipId) },
        { name: names.unrendered, prepare: forget, run: ours(plainId) },
      ],
      bench.rounds,
    );
    const of = (name: string) => times.get(name)?.median ?? Number.NaN;
    return {
      title,
      columns: ['', 'seconds', 'rows/s', '× its pipeline'],
      rows: Object.values(names).map((name, index) => [
        name,
        of(name).toFixed(3),
        formatNumber(bench.rows / of(name)),
        (of(index === 2 || index === 3 ? names.gzipPipe : names.pipe) / of(name)).toFixed(2),
      ]),
      goals: [
        {
          text: 'run, plain ≥ 2 × its pipeline',
          kind: 'at least',
          wanted: 2,
          value: of(names.pipe) / of(names.ours),
        },
        {
          text: 'run, gzip ≥ 8 × its pipeline',
          kind: 'at least',
          wanted: 8,
          value: of(names.gzipPipe) / of(names.oursGzip),
        },
      ],
      notes: [
        `The time of the service is from start to end of the run in its history. A job waited at most ${(Math.max(...waits) / 1000).toFixed(1)} s before it started.`,
        'Both upload to the same Ceph RADOS Gateway with a store in memory.',
      ],
      bars: Object.values(names).map(name => ({ name, rowsPerSecond: bench.rows / of(name) })),
    };
  } finally {
    await service.stop();
  }
}

/**
 * Creates an export config.
 *
 * @param folder folder of the objects. No two configs of an environment may write the same objects.
 * @returns its id
 */
export async function makeConfig(
  service: Service,
  bench: Bench,
  compression: 'none' | 'gzip',
  folder: string,
): Promise<string> {
  const { s3 } = bench;
  const config = await service.call(`/v1/environments/${bench.environmentId}/export-configs`, {
    method: 'POST',
    json: {
      name: `${folder} ${compression}`,
      schedule: 'daily',
      // Manual runs only: the bench may continue after midnight.
      enabled: false,
      provider: 'custom',
      endpoint: s3?.endpoint,
      bucket: s3?.bucket,
      region: s3?.region,
      key: `${folder}/${compression}`,
      ...s3?.users.full,
      compression,
    },
  });
  return (config as { id: string }).id;
}

async function runNow(service: Service, bench: Bench, configId: string): Promise<Run> {
  const runs = `/v1/environments/${bench.environmentId}/export-configs/${configId}/runs`;
  const { id } = (await service.call(runs, {
    method: 'POST',
    json: { snapshotDate: bench.date },
  })) as Run;
  const read = async () => (await service.call(`${runs}/${id}`)) as Run;
  const run = await waitFor('the end of the run', read, {
    isWanted: ({ state }) => state !== 'queued' && state !== 'running',
    limitMs: Number.POSITIVE_INFINITY,
  });
  if (run.state !== 'successful') throw new Error(`run: ${JSON.stringify(run)}`);
  return run;
}
