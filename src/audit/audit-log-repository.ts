import type { Selectable } from 'kysely';
import type { DatabaseOrTransaction } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';

/**
 * Records changes and downloads with their actor and time. The line of a change is written in the
 * transaction of the change, so neither exists without the other. The line of a download is written
 * after its end.
 */

export const actorKinds = ['operator', 'api-key', 'user', 'system'] as const;
type ActorKind = (typeof actorKinds)[number];

/** Author of a change. */
export interface Actor {
  readonly kind: ActorKind;
  /** Id of the API key or user, or name of the job for `system`; null for the operator. */
  readonly id: string | null;
  /** Id that the service gave to the request; null if no request asked for the change. */
  readonly requestId: string | null;
  /** Id that the caller sent; null or absent if it sent none. */
  readonly callerRequestId?: string | null;
}

export const auditActions = [
  'environment.created',
  'environment.updated',
  'environment.deleted',
  'failure_webhook.created',
  'failure_webhook.updated',
  'failure_webhook.deleted',
  'failure_webhook.secret_rotated',
  'failure_webhook.secret_resealed',
  'api_key.created',
  'api_key.revoked',
  'snapshot.ingested',
  'snapshot.deleted',
  'download_link.created',
  'export.downloaded',
  'export_config.created',
  'export_config.updated',
  'export_config.turned_off',
  'export_config.deleted',
  'export_config.secret_resealed',
  'export_run.started',
  'export_run.cancelled',
  'export_run.retried',
  'backfill.started',
  'backfill.cancelled',
  'export_runs.expired',
  'audit_log.expired',
] as const;
export type AuditAction = (typeof auditActions)[number];

/** Field names, and values that are safe to show. Never a secret, never free text. */
type Details = Readonly<Record<string, unknown>>;

export interface Change {
  /** Id of the environment; null if the change concerns no single environment. */
  readonly environmentId: string | null;
  readonly action: AuditAction;
  /** Id of the changed object. For a snapshot it is the date. */
  readonly targetId: string | null;
  readonly details?: Details;
}

/** Audit line as the API returns it. `at` is ISO 8601 UTC. */
export interface AuditEntry extends Required<Change> {
  readonly id: string;
  readonly at: string;
  readonly actor: { readonly kind: ActorKind; readonly id: string | null };
  readonly requestId: string | null;
  readonly callerRequestId: string | null;
}

/** Returns the actor for a job of the service itself, such as `retention`. */
export function systemActor(job: string): Actor {
  return { kind: 'system', id: job, requestId: null };
}

/** Lines per statement. Postgres accepts at most 65,535 parameters in one statement. */
const linesPerStatement = 5_000;

/**
 * Writes one line per change.
 * @param trx transaction of the changes
 */
export async function recordChanges(
  trx: DatabaseOrTransaction,
  actor: Actor,
  changes: readonly Change[],
): Promise<void> {
  const lines = changes.map(change => ({
    actor_kind: actor.kind,
    actor_id: actor.id,
    environment_id: change.environmentId,
    action: change.action,
    target_id: change.targetId,
    details: JSON.stringify(change.details ?? {}),
    request_id: actor.requestId,
    caller_request_id: actor.callerRequestId ?? null,
  }));
  for (let at = 0; at < lines.length; at += linesPerStatement) {
    await trx
      .insertInto('audit_log')
      .values(lines.slice(at, at + linesPerStatement))
      .execute();
  }
}

export async function recordChange(
  trx: DatabaseOrTransaction,
  actor: Actor,
  change: Change,
): Promise<void> {
  await recordChanges(trx, actor, [change]);
}

/** Lists lines before `before`, newest first. */
export async function listAuditLog(
  db: DatabaseOrTransaction,
  filter: { environmentId: string | null; action: AuditAction | null },
  page: { before: { at: Date; id: number } | null; limit: number },
): Promise<AuditEntry[]> {
  const { environmentId, action } = filter;
  const { before } = page;
  const rows = await db
    .selectFrom('audit_log')
    .selectAll()
    .where(({ eb, val }) =>
      environmentId === null ? val(true) : eb('environment_id', '=', environmentId),
    )
    .where(({ eb, val }) => (action === null ? val(true) : eb('action', '=', action)))
    .where(({ eb, refTuple, tuple, val }) =>
      before === null ? val(true) : eb(refTuple('at', 'id'), '<', tuple(before.at, before.id)),
    )
    .orderBy('at', 'desc')
    .orderBy('id', 'desc')
    .limit(page.limit)
    .execute();
  return rows.map(toEntry);
}

function toEntry(row: Selectable<Tables['audit_log']>): AuditEntry {
  return {
    id: String(row.id),
    at: row.at.toISOString(),
    // The check constraint allows nothing else.
    actor: { kind: row.actor_kind as ActorKind, id: row.actor_id },
    environmentId: row.environment_id,
    // Only `recordChanges` writes here.
    action: row.action as AuditAction,
    targetId: row.target_id,
    details: row.details,
    requestId: row.request_id,
    callerRequestId: row.caller_request_id,
  };
}
