interface Queryable {
  query(text: string, values: unknown[]): Promise<unknown>;
}

/**
 * Every job that waits for its next attempt may have it now: pauses grow to half an hour and more.
 * @param queue of this queue alone
 */
export async function hastenRetries(db: Queryable, queue: string | null = null): Promise<void> {
  await db.query(
    `update pgboss.job set start_after = now() where state = 'retry' and name = coalesce($1, name)`,
    [queue],
  );
}
