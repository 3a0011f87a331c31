import type { ColumnType, Generated } from 'kysely';

/** What the migrations made, as Kysely sees it. Instants come back as Date, dates as `YYYY-MM-DD` text. */
export interface Tables {
  environments: EnvironmentsTable;
  api_keys: ApiKeysTable;
  snapshots: SnapshotsTable;
  snapshot_rows: SnapshotRowsTable;
}

type CreatedAt = ColumnType<Date, never, never>;

interface EnvironmentsTable {
  id: string;
  name: string;
  plan: string;
  created_at: CreatedAt;
  updated_at: Generated<Date>;
}

interface ApiKeysTable {
  environment_id: string;
  id: string;
  name: string;
  scopes: string[];
  /** SHA-256 of the secret part. */
  secret_hash: Buffer;
  expires_at: Date | null;
  created_at: CreatedAt;
}

/** The registry of complete snapshots: a date is listed here once its rows are all in `snapshot_rows`. */
interface SnapshotsTable {
  environment_id: string;
  snapshot_date: string;
  /** Changes with every replacement and never comes again. */
  version: Generated<string>;
  row_count: number;
  completed_at: Generated<Date>;
}

interface SnapshotRowsTable {
  environment_id: string;
  snapshot_date: string;
  company_id: string;
  company_name: string | null;
  feature_id: string;
  feature_name: string;
  first_seen: Date;
  last_seen: Date;
  first_used: Date | null;
  last_used: Date | null;
  stars_state: number;
  frequency: number;
  satisfaction: number | null;
  feedback_count: number;
  /** Lists in the contract's own form: items joined by commas, RFC 4180 quotes inside where needed. */
  segment_names: string;
  segment_ids: string;
}
