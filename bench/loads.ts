import { createReadStream } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Bench, Section } from './bench.ts';
import { formatNumber } from './bench.ts';
import { alternate, timed } from './measure.ts';
import { shell } from './processes.ts';
import { type Service, startService } from './service.ts';

const stored =
  'company_id, company_name, feature_id, feature_name, first_seen, last_seen, first_used, last_used, stars_state, frequency, satisfaction, feedback_count, segment_names, segment_ids';
const header =
  'Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,STARS State,Frequency,Satisfaction,Feedback Count,Segment Names,Segment IDs';

/**
 * Measures the ingest of the service and `\copy from` of the same file into the same table. Each
 * round starts without the snapshot.
 */
export async function measureLoads(bench: Bench): Promise<Section> {
  const title = `Ingest of ${bench.rows.toLocaleString('en')} rows`;
  if (!bench.hasPsql) {
    return {
      title,
      columns: [''],
      rows: [],
      goals: [],
      notes: ['Skipped: psql is not installed.'],
      bars: [],
    };
  }
  const service = await startService(bench);
  const [direct, body] = await writeFiles(bench);
  const remove = async () => {
    for (const id of ['direct', 'ours']) {
      await bench.pool.query('delete from snapshot_rows where environment_id = $1', [id]);
      await bench.pool.query('delete from snapshots where environment_id = $1', [id]);
    }
    await bench.pool.query('vacuum snapshot_rows');
    await bench.pool.query('checkpoint');
  };
  await service.call('/v1/environments/ours', {
    method: 'PUT',
    json: { name: 'ours', plan: 'pro' },
  });
  const columns = `environment_id, snapshot_date, ${stored}`;
  const copyIn = `\\copy snapshot_rows (${columns}) from '${direct}' (format csv)`;
  try {
    const times = await alternate(
      [
        {
          name: 'psql \\copy from',
          prepare: remove,
          run: () => shell(`psql -qXv ON_ERROR_STOP=1 -c "${copyIn}" '${bench.databaseUrl}'`),
        },
        { name: 'ours', prepare: remove, run: () => timed(() => put(service, bench.date, body)) },
      ],
      bench.rounds,
    );
    await remove();
    const [limit, ours] = [...times.values()];
    const rate = (median = Number.NaN) => bench.rows / median;
    const ratio = rate(ours?.median) / rate(limit?.median);
    return {
      title,
      columns: ['', 'seconds', 'rows/s', '× psql'],
      rows: [...times.values()].map(({ name, median }) => [
        name,
        median.toFixed(3),
        formatNumber(rate(median)),
        (rate(median) / rate(limit?.median)).toFixed(2),
      ]),
      goals: [
        { text: 'load ≥ 0.6 × psql \\copy from', kind: 'at least', wanted: 0.6, value: ratio },
      ],
      notes: [
        'The partition already has the other rows and its indexes. The time of the service includes all checks.',
      ],
      bars: [
        { name: 'psql \\copy from', rowsPerSecond: rate(limit?.median) },
        { name: 'ours, load', rowsPerSecond: rate(ours?.median) },
      ],
    };
  } finally {
    await service.stop();
  }
}

/**
 * Writes the same rows to two files: for `\copy` and as a request body.
 *
 * @returns both paths
 */
async function writeFiles(bench: Bench): Promise<[string, string]> {
  const [direct, body] = ['direct.csv', 'body.csv'].map(name =>
    path.join(bench.directory, name),
  ) as [string, string];
  const instants = stored.replace(
    /\w+_(seen|used)/g,
    `to_char($& at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`,
  );
  const from = `from snapshot_rows where environment_id = '${bench.environmentId}' and snapshot_date = '${bench.date}' order by company_id, feature_id`;
  const psql = (select: string) =>
    `psql -qXc "\\copy (${select} ${from}) to pstdout (format csv)" '${bench.databaseUrl}'`;
  const quoted = instants.replaceAll('"', '\\"');
  await shell(`${psql(`select 'direct', snapshot_date, ${quoted}`)} >'${direct}'`);
  await shell(`{ echo '${header}'; ${psql(`select ${quoted}`)}; } >'${body}'`);
  return [direct, body];
}

async function put(service: Service, date: string, file: string): Promise<void> {
  const request = http.request(`${service.origin}/v1/environments/ours/snapshots/${date}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${service.token}`, 'content-type': 'text/csv' },
  });
  const answered = new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve).once('error', reject);
  });
  await pipeline(createReadStream(file, { highWaterMark: 256 * 1024 }), request);
  const answer = await answered;
  const text = await answer.toArray();
  if (answer.statusCode !== 201)
    throw new Error(`load: ${answer.statusCode} ${Buffer.concat(text)}`);
}
