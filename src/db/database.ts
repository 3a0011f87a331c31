import type { Kysely, Transaction } from 'kysely';
import type { Tables } from './tables.ts';

export type Database = Kysely<Tables>;

/** Database, or the transaction of the caller. */
export type DatabaseOrTransaction = Kysely<Tables> | Transaction<Tables>;
