/**
 * Writes the file of a day to stdout in the usual way: a cursor, rows as objects and fast-csv.
 *
 *   node bench/cursor-fast-csv.ts <database url> <environment> <date>
 */
import { once } from 'node:events';
import { format } from 'fast-csv';
import pg from 'pg';

const [databaseUrl = '', environmentId = '', date = ''] = process.argv.slice(2);
const batch = 10_000;

const stars = ['', 'never', 'tried', 'retained', 'churned'];
const frequencies = ['never', 'monthly', 'weekly', 'daily'];
const satisfactions = [
  'not rated',
  'very dissatisfied',
  'dissatisfied',
  'neutral',
  'satisfied',
  'very satisfied',
];

const client = new pg.Client({ connectionString: databaseUrl });
await client.connect();
await client.query('begin read only');
await client.query(`declare c no scroll cursor for select * from snapshot_rows
  where environment_id = '${environmentId}' and snapshot_date = '${date}' order by company_id, feature_id`);
const csv = format({ headers: true, includeEndRowDelimiter: true });
csv.pipe(process.stdout);
for (;;) {
  const { rows } = await client.query(`fetch ${batch} from c`);
  for (const row of rows) {
    const more = csv.write({
      'Company ID': row.company_id,
      'Company Name': row.company_name,
      'Feature Name': row.feature_name,
      'Feature ID': row.feature_id,
      Date: date,
      'First Seen': row.first_seen.toISOString(),
      'Last Seen': row.last_seen.toISOString(),
      'First Used': row.first_used?.toISOString(),
      'Last Used': row.last_used?.toISOString(),
      'STARS State Label': stars[row.stars_state],
      'STARS State': row.stars_state,
      'Frequency Label': frequencies[row.frequency],
      Frequency: row.frequency,
      'Satisfaction Label': satisfactions[row.satisfaction ?? 0],
      Satisfaction: row.satisfaction,
      'Feedback Count': row.feedback_count,
      'Segment Names': row.segment_names,
      'Segment IDs': row.segment_ids,
    });
    if (!more) await once(csv, 'drain');
  }
  if (rows.length < batch) break;
}
csv.end();
await client.query('commit');
await client.end();
