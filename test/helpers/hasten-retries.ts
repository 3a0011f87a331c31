interface Queryable {
  query(text: string, values: unknown[]): Promise<unknown>;
}

/**
 * Allows every waiting job to start its next attempt now. Pauses would grow to more than half an
 * hour.
 *
 * @param queue limits this to one queue
 */
export async function hastenRetries(db: Queryable, queue: string | null = null): Promise<void> {
  await db.query(
    `update pgboss.job set start_after = now() where state = 'retry' and name = coalesce($1, name)`,
    [queue],
  );
}
