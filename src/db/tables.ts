import type { ColumnType, Generated, GeneratedAlways } from 'kysely';

/**
 * Tables of the database as the migrations create them. Instants are Date, dates are `YYYY-MM-DD`
 * text.
 */
export interface Tables {
  environments: EnvironmentsTable;
  api_keys: ApiKeysTable;
  snapshots: SnapshotsTable;
  snapshot_rows: SnapshotRowsTable;
  snapshot_changes: SnapshotChangesTable;
  undated_changes: UndatedChangesTable;
  rendered_snapshots: RenderedSnapshotsTable;
  snapshot_chunks: SnapshotChunksTable;
  external_ids: ExternalIdsTable;
  export_configs: ExportConfigsTable;
  export_runs: ExportRunsTable;
  audit_log: AuditLogTable;
  failure_webhooks: FailureWebhooksTable;
  webhook_events: WebhookEventsTable;
  backfills: BackfillsTable;
  redelivery_checks: RedeliveryChecksTable;
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

/**
 * Registry of complete snapshots. A snapshot is listed once all its rows are in `snapshot_rows`.
 */
interface SnapshotsTable {
  environment_id: string;
  snapshot_date: string;
  /** Differs for every replacement and is never reused. */
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
  /** Items joined by commas, with RFC 4180 quotes where needed (docs/file-format.md). */
  segment_names: string;
  segment_ids: string;
}

/** Change of the registry. A trigger inserts it, and the tick deletes it once nothing is due. */
interface SnapshotChangesTable {
  environment_id: string;
  id: GeneratedAlways<number>;
  snapshot_date: string;
}

/** Newest change of an environment's snapshots that no time of completion shows. */
interface UndatedChangesTable {
  environment_id: string;
  /** Completion of the newest snapshot before the change, or of the one that it concerns. */
  completed_until: Date;
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
  /**
   * Versions of the rendering code and of zlib. Two renderers may compress equal rows differently.
   */
  renderer: string;
  rendered_at: Generated<Date>;
  /**
   * Time at which a newer version or a deletion was noticed. Retention deletes the chunks later.
   */
  replaced_at: Date | null;
}

/** Compressed piece of a rendered snapshot. It ends at the end of a record. */
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

interface ExternalIdsTable {
  environment_id: string;
  external_id: Generated<string>;
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
  /** Folder; `''` for the root of the bucket. */
  key: string;
  endpoint: string | null;
  /** Null with the secret if the config has a role. */
  access_key_id: string | null;
  sealed_secret: string | null;
  role_arn: Generated<string | null>;
  /** Copy of the external id of the environment; null without a role. */
  external_id: Generated<string | null>;
  format: Generated<string>;
  compression: string;
  manifest: boolean;
  /** Server-side encryption of the uploads; null for the default of the bucket. */
  encryption: Generated<string | null>;
  kms_key_id: Generated<string | null>;
  /**
   * Time of creation, of the last turn-on or of the last change of schedule. The first slot is the
   * next one after it.
   */
  active_since: Date;
  /**
   * Time of deletion. Callers no longer see the config. The row stays until the unfinished run has
   * cleaned up.
   */
  deleted_at: Date | null;
  /** Consecutive failed runs since the last successful one. */
  failures_in_a_row: Generated<number>;
  /** Consecutive scheduled runs that failed with a configuration error. */
  faulty_slots_in_a_row: Generated<number>;
  /** True if a failure was recorded as an event and the recovery was not yet. */
  has_pushed_failure: Generated<boolean>;
  /** Time at which the service turned the config off; null once it is turned on again. */
  turned_off_at: Date | null;
  turned_off_message: string | null;
  /** Missed slots that run after an outage: `newest` or `all`. */
  catch_up: Generated<string>;
  /** True if a snapshot that is replaced after its delivery is delivered again. */
  redeliver: Generated<boolean>;
  /** Newest date whose snapshot was delivered; null for none or if only older versions ran. */
  last_delivered_date: Generated<string | null>;
  created_at: ColumnType<Date, Date, never>;
  updated_at: Date;
}

interface ExportRunsTable {
  environment_id: string;
  config_id: string;
  id: string;
  trigger: string;
  /** Slot of a scheduled run; null for a manual run. */
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
  /**
   * Job that executes the run; null while the run waits for its snapshot and after it has ended.
   */
  job_id: string | null;
  /** Multipart upload in progress. After a crash of the worker another one aborts it. */
  upload_id: string | null;
  backfill_id: Generated<string | null>;
  /** Version that was delivered. A redelivery has the version that it was made for before that. */
  snapshot_version: Generated<string | null>;
  /** True from the completion of the object until the attempt ends. Such a run is not cancelled. */
  is_completing: Generated<boolean>;
  /** How to correct the error; null if unknown. */
  error_hint: Generated<string | null>;
}

/** Request to export each snapshot of a range of dates. Its counts are those of its runs. */
interface BackfillsTable {
  environment_id: string;
  config_id: string;
  id: string;
  from_date: string;
  to_date: string;
  total: number;
  /** Sorted dates that have no run yet. */
  pending_dates: string[];
  created_at: ColumnType<Date, Date, never>;
  cancelled_at: Date | null;
}

/**
 * Config that may have delivered a snapshot that was replaced since. The next tick looks for it.
 */
interface RedeliveryChecksTable {
  environment_id: string;
  config_id: string;
  requested_at: Generated<Date>;
}

/** Lines are inserted and deleted after their retention time, never updated. */
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
  /** Types of the events that the webhook receives. */
  events: Generated<string[]>;
}

/** Event for a webhook. Kept for a week, for retries and to find earlier failures of the day. */
interface WebhookEventsTable {
  environment_id: string;
  config_id: string;
  id: string;
  type: string;
  /** UTC day of the event. Each config has at most one failure event a day. */
  day: string;
  data: ColumnType<Record<string, unknown>, string, never>;
  created_at: ColumnType<Date, Date, never>;
}
