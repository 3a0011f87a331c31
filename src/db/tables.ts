import type { ColumnType, Generated, GeneratedAlways } from 'kysely';

/** What the migrations made, as Kysely sees it. Instants come back as Date, dates as `YYYY-MM-DD` text. */
export interface Tables {
  environments: EnvironmentsTable;
  api_keys: ApiKeysTable;
  snapshots: SnapshotsTable;
  snapshot_rows: SnapshotRowsTable;
  rendered_snapshots: RenderedSnapshotsTable;
  snapshot_chunks: SnapshotChunksTable;
  export_configs: ExportConfigsTable;
  export_runs: ExportRunsTable;
  audit_log: AuditLogTable;
  failure_webhooks: FailureWebhooksTable;
  webhook_events: WebhookEventsTable;
}

type CreatedAt = ColumnType<Date, never, never>;

interface EnvironmentsTable {
  id: string;
  name: string;
  plan: string;
  /** Differs between a deleted environment and a later one with the same id. */
  incarnation: Generated<string>;
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

/** A snapshot version whose rows are in `snapshot_chunks`. */
interface RenderedSnapshotsTable {
  environment_id: string;
  version: string;
  snapshot_date: string;
  /** Bytes of the CSV rows, without the header line. */
  plain_bytes: number;
  /** Bytes of the same rows in `snapshot_chunks`. */
  deflated_bytes: number;
  chunk_count: number;
  /** CRC-32 of the plain bytes. */
  crc32: number;
  /** The code and the zlib that made the chunks: bytes of equal rows may differ between two renderers. */
  renderer: string;
  rendered_at: Generated<Date>;
  /** When a newer version or a deletion was noticed; the chunks are deleted some time after. */
  replaced_at: Date | null;
}

/** A piece of a rendered snapshot that ends at the end of a record. */
interface SnapshotChunksTable {
  environment_id: string;
  version: string;
  /** Position in the snapshot, from 0. */
  index: number;
  plain_bytes: number;
  /** CRC-32 of version, index and deflated bytes. */
  checksum: number;
  /** Raw deflate data that ends with a sync flush and has no final block. */
  deflated: Buffer;
}

interface ExportConfigsTable {
  environment_id: string;
  id: string;
  name: string;
  enabled: boolean;
  schedule: string;
  provider: string;
  bucket: string;
  region: string;
  /** The folder; `''` is the bucket's root. */
  key: string;
  endpoint: string | null;
  access_key_id: string;
  sealed_secret: string;
  compression: string;
  manifest: boolean;
  /** Null leaves the encryption to the bucket. */
  encryption: Generated<string | null>;
  kms_key_id: Generated<string | null>;
  /** Made, turned on again or given another schedule: its first slot is the next one after this. */
  active_since: Date;
  /** Gone for every caller; the row stays until the run that was under way has cleaned up. */
  deleted_at: Date | null;
  /** Runs that failed since the last that succeeded. */
  failures_in_a_row: Generated<number>;
  /** Of these the slots since the last failure of another kind. */
  faulty_slots_in_a_row: Generated<number>;
  /** A failure was pushed and its end was not yet. */
  has_pushed_failure: Generated<boolean>;
  /** When it turned itself off; null once it is turned on again. */
  turned_off_at: Date | null;
  turned_off_message: string | null;
  created_at: ColumnType<Date, Date, never>;
  updated_at: Date;
}

interface ExportRunsTable {
  environment_id: string;
  config_id: string;
  id: string;
  trigger: string;
  /** Null for a manual run. */
  slot: Date | null;
  snapshot_date: string;
  state: string;
  attempts: Generated<number>;
  created_at: ColumnType<Date, Date, never>;
  started_at: Date | null;
  finished_at: Date | null;
  row_count: number | null;
  bytes: number | null;
  sha256: string | null;
  object_key: string | null;
  error_code: string | null;
  error_message: string | null;
  /** The job that carries it out; null while it waits for its snapshot, and once nothing is left to do. */
  job_id: string | null;
  /** The multipart upload under way, so that whoever comes after a dead worker can abort it. */
  upload_id: string | null;
}

/** Lines are written and, once old, removed; never changed. */
interface AuditLogTable {
  id: GeneratedAlways<number>;
  at: CreatedAt;
  actor_kind: string;
  actor_id: string | null;
  environment_id: string | null;
  action: string;
  target_id: string | null;
  details: ColumnType<Record<string, unknown>, string, never>;
  request_id: string | null;
  caller_request_id: string | null;
}

interface FailureWebhooksTable {
  environment_id: string;
  url: string;
  sealed_secret: string;
}

/** What is pushed to a failure webhook. Kept for a few days, to send it and to know that it was pushed. */
interface WebhookEventsTable {
  environment_id: string;
  config_id: string;
  id: string;
  type: string;
  /** UTC; one failure a config and day. */
  day: string;
  data: ColumnType<Record<string, unknown>, string, never>;
  created_at: ColumnType<Date, Date, never>;
}
