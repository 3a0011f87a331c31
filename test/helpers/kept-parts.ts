import fs from 'node:fs';
import path from 'node:path';
import type { Pool } from 'pg';

/** A folder of kept parts, as a test looks at it and breaks it. */
export interface KeptParts {
  readonly directory: string;
  /** Names of the parts that are whole. */
  whole(): string[];
  /** Names of all other files. */
  unfinished(): string[];
  /** As the disk counts. */
  usedBytes(): number;
  read(name: string): Buffer;
  write(name: string, bytes: Buffer): void;
  /** Files of this folder that this process has open, deleted ones included. */
  openFiles(): string[];
}

export function keptParts(directory: string): KeptParts {
  const files = () => (fs.existsSync(directory) ? fs.readdirSync(directory).sort() : []);
  return {
    directory,
    whole: () => files().filter(name => name.endsWith('.part')),
    unfinished: () => files().filter(name => !name.endsWith('.part')),
    usedBytes: () =>
      files().reduce((sum, name) => {
        const info = fs.statSync(path.join(directory, name), { throwIfNoEntry: false });
        return sum + Math.max(info?.size ?? 0, (info?.blocks ?? 0) * 512);
      }, 0),
    read: name => fs.readFileSync(path.join(directory, name)),
    // In place, so that who has the file open sees it.
    write: (name, bytes) => fs.writeFileSync(path.join(directory, name), bytes, { flag: 'r+' }),
    openFiles: () =>
      fs
        .readdirSync('/proc/self/fd')
        .map(fd => {
          try {
            return fs.readlinkSync(`/proc/self/fd/${fd}`);
          } catch {
            return '';
          }
        })
        .filter(target => target.startsWith(`${directory}/`)),
  };
}

/** Counts the COPYs that a pool's connections are given from now on. */
export function countCopies(pool: Pool): { since(): number } {
  let copies = 0;
  pool.on('connect', client => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    client.query = ((...args: unknown[]) => {
      const [asked] = args as [{ text?: string } | string];
      if (typeof asked === 'object' && asked.text?.startsWith('copy ')) copies += 1;
      return query(...args);
    }) as typeof client.query;
  });
  return {
    /** How many since it was asked last. */
    since() {
      const counted = copies;
      copies = 0;
      return counted;
    },
  };
}

/** Rows that hardly pack, straight into the tables; about 700 bytes each, of which gzip leaves 400. */
export async function writeDenseSnapshot(
  pool: Pool,
  snapshot: { environmentId: string; date: string; rows: number; salt?: string },
): Promise<void> {
  const { environmentId, date, rows, salt = '' } = snapshot;
  await pool.query('select ensure_snapshot_partition($1)', [date]);
  await pool.query(
    `with deleted as (delete from snapshot_rows where environment_id = $1 and snapshot_date = $2)
     insert into snapshots (environment_id, snapshot_date, row_count) values ($1, $2, $3)
     on conflict (environment_id, snapshot_date) do update
       set version = default, row_count = excluded.row_count, completed_at = now()`,
    [environmentId, date, rows],
  );
  await pool.query(
    `insert into snapshot_rows (environment_id, snapshot_date, company_id, company_name, feature_id, feature_name,
       first_seen, last_seen, stars_state, frequency, feedback_count)
     select $1, $2, to_char(n, 'FM00000000'), (select string_agg(md5(concat($4::text, n, '-', i)), '') from generate_series(1, 20) as i),
       'f1', 'Export', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z', 1, 0, 0
     from generate_series(1, $3::int) as n`,
    [environmentId, date, rows, salt],
  );
}
