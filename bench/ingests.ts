import { createReadStream } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Bench, Section } from './bench.ts';
import { formatNumber } from './bench.ts';
import { alternate, type Contender, timed } from './measure.ts';
import { shell } from './processes.ts';
import { type Service, startService } from './service.ts';

const stored =
  'company_id, company_name, feature_id, feature_name, first_seen, last_seen, first_used, last_used, stars_state, frequency, satisfaction, feedback_count, segment_names, segment_ids';
export const header =
  'Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,STARS State,Frequency,Satisfaction,Feedback Count,Segment Names,Segment IDs';

const sameTable = 'psql \\copy, same table';
const plainTable = 'psql \\copy, plain table';

/** Forms of the same rows as backends send them. Instants are SQL expressions of a column. */
const forms = [
  {
    name: 'as exported',
    order: 'company_id, feature_id',
    instant: `to_char($& at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`,
  },
  {
    name: 'no decimals',
    order: 'company_id, feature_id',
    instant: `to_char($& at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`,
  },
  {
    name: 'six decimals, offset, shuffled',
    order: 'md5(company_id || feature_id)',
    instant: `to_char($& at time zone 'UTC' + interval '2 hours', 'YYYY-MM-DD"T"HH24:MI:SS.US"+02:00"')`,
  },
] as const;

/**
 * Compares ingests of three forms of body with `\copy` of the same rows in the same order, into
 * the same table and into a plain table with a primary key.
 */
export async function measureIngests(bench: Bench): Promise<Section> {
  const title = `Ingests of ${bench.rows.toLocaleString('en')} rows`;
  if (!bench.hasPsql) {
    return {
      title,
      columns: [''],
      rows: [],
      goals: [],
      notes: ['Skipped: no psql.'],
      bars: [],
    };
  }
  const service = await startService(bench);
  await service.call('/v1/environments/ours', {
    method: 'PUT',
    json: { name: 'ours', plan: 'pro' },
  });
  await bench.pool.query(
    `create table plain_rows as select * from snapshot_rows where false;
     alter table plain_rows
       add primary key (environment_id, snapshot_date, company_id, feature_id)`,
  );
  try {
    const contenders: Contender[] = [];
    for (const [index, form] of forms.entries()) {
      const [direct, body] = await writeFiles(bench, index);
      const copy = (table: string) =>
        `\\copy ${table} (environment_id, snapshot_date, ${stored}) from '${direct}' (format csv)`;
      const psql = (table: string) =>
        shell(`psql -qXv ON_ERROR_STOP=1 -c "${copy(table)}" '${bench.databaseUrl}'`);
      const prepare = () => removeRows(bench);
      contenders.push(
        { name: `${sameTable}: ${form.name}`, prepare, run: () => psql('snapshot_rows') },
        { name: `${plainTable}: ${form.name}`, prepare, run: () => psql('plain_rows') },
        {
          name: `service: ${form.name}`,
          prepare,
          run: () =>
            timed(() => put(service, bench.date, createReadStream(body, { highWaterMark }))),
        },
      );
    }
    const times = await alternate(contenders, bench.rounds);
    await removeRows(bench);
    const median = (name: string) => times.get(name)?.median ?? Number.NaN;
    const ratio = (form: string, other: string) =>
      median(`${other}: ${form}`) / median(`service: ${form}`);
    return {
      title,
      columns: ['', 'seconds', 'rows/s', '× same table', '× plain table'],
      rows: forms.flatMap(({ name: form }) =>
        [sameTable, plainTable, 'service'].map(what => {
          const seconds = median(`${what}: ${form}`);
          return [
            `${what}: ${form}`,
            seconds.toFixed(3),
            formatNumber(bench.rows / seconds),
            (median(`${sameTable}: ${form}`) / seconds).toFixed(2),
            (median(`${plainTable}: ${form}`) / seconds).toFixed(2),
          ];
        }),
      ),
      goals: forms.flatMap(({ name: form }) => [
        {
          text: `ingest, ${form} ≥ 0.9 × same table`,
          kind: 'at least' as const,
          wanted: 0.9,
          value: ratio(form, sameTable),
        },
        {
          text: `ingest, ${form} ≥ 0.6 × plain table`,
          kind: 'at least' as const,
          wanted: 0.6,
          value: ratio(form, plainTable),
        },
      ]),
      notes: [
        'The same table has the rows of other days and environments, its keys and its checks.',
        'The plain table has the same columns and primary key and nothing else.',
      ],
      bars: [
        {
          name: 'psql \\copy from',
          rowsPerSecond: bench.rows / median(`${sameTable}: as exported`),
        },
        { name: 'service, ingest', rowsPerSecond: bench.rows / median('service: as exported') },
      ],
    };
  } finally {
    await bench.pool.query('drop table plain_rows');
    await service.stop();
  }
}

async function removeRows(bench: Bench): Promise<void> {
  for (const id of ['direct', 'ours']) {
    await bench.pool.query('delete from snapshot_rows where environment_id = $1', [id]);
    await bench.pool.query('delete from snapshots where environment_id = $1', [id]);
  }
  await bench.pool.query('truncate plain_rows');
  await bench.pool.query('vacuum snapshot_rows');
  await bench.pool.query('checkpoint');
}

/** Writes the rows in one form twice: ready for the table, and as a body for an ingest. */
async function writeFiles(bench: Bench, index: number): Promise<[string, string]> {
  const { instant, order } = forms[index] ?? forms[0];
  const file = (name: string) => path.join(bench.directory, `${name}-${index}.csv`);
  const [direct, body] = [file('direct'), file('body')];
  const values = (form: string) => stored.replace(/\w+_(seen|used)/g, form);
  const from = `from snapshot_rows where environment_id = '${bench.environmentId}' and snapshot_date = '${bench.date}' order by ${order}`;
  const psql = (select: string) => {
    const statement = `\\copy (${select} ${from}) to pstdout (format csv)`;
    return `psql -qXc "${statement.replaceAll('"', '\\"')}" '${bench.databaseUrl}'`;
  };
  const canonical = values(forms[0].instant);
  await shell(`${psql(`select 'direct', snapshot_date, ${canonical}`)} >'${direct}'`);
  await shell(`{ echo '${header}'; ${psql(`select ${values(instant)}`)}; } >'${body}'`);
  return [direct, body];
}

const highWaterMark = 256 * 1024;

/**
 * Ingests a body into the environment `ours`.
 *
 * @throws Error if the service does not store it
 */
export async function put(service: Service, date: string, body: Readable): Promise<void> {
  const request = http.request(`${service.origin}/v1/environments/ours/snapshots/${date}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${service.token}`, 'content-type': 'text/csv' },
  });
  const answered = new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve).once('error', reject);
  });
  await pipeline(body, request);
  const answer = await answered;
  const text = await answer.toArray();
  if (answer.statusCode !== 201)
    throw new Error(`ingest: ${answer.statusCode} ${Buffer.concat(text)}`);
}
