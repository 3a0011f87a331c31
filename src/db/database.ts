import type { Kysely, Transaction } from 'kysely';
import type { Tables } from './tables.ts';

export type Database = Kysely<Tables>;

/** A function that takes this works in the transaction it is handed. */
export type DatabaseOrTransaction = Kysely<Tables> | Transaction<Tables>;
