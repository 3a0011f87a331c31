import type { Pool } from 'pg';
import type { S3Server } from '../dev/s3-server.ts';

/** Input of every measurement. */
export interface Bench {
  readonly databaseUrl: string;
  readonly pool: Pool;
  /** Directory for files. It is removed at the end. */
  readonly directory: string;
  /** Closed day whose snapshot is exported and ingested. */
  readonly date: string;
  /** Environment with `rows` rows of that day. */
  readonly environmentId: string;
  readonly rows: number;
  /** Number of measurements for each median. */
  readonly rounds: number;
  /** Numbers of rows for the growth measurement. Each is four times the previous one. */
  readonly sizes: readonly number[];
  /** Numbers of configs that are due in a tick. */
  readonly configCounts: readonly number[];
  /** True if psql is installed. Otherwise a Node process runs the same COPY. */
  readonly hasPsql: boolean;
  /** Process of the Postgres server that the bench started; null if it uses another server. */
  readonly postmasterPid: number | null;
  /** S3 server; null skips the comparisons that need one. */
  readonly s3: S3Server | null;
}

/** One measured goal. */
export interface Goal {
  readonly text: string;
  readonly wanted: number;
  readonly value: number;
  /** Says if `wanted` is the lowest or the highest acceptable value. */
  readonly kind: 'at least' | 'at most';
}

export interface Bar {
  readonly name: string;
  readonly rowsPerSecond: number;
}

/** One table of the report. */
export interface Section {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  readonly goals: readonly Goal[];
  /** Notes about the method, and about skipped measurements with the reason. */
  readonly notes: readonly string[];
  /** Bars of the plot. */
  readonly bars: readonly Bar[];
}

export function holds({ kind, value, wanted }: Goal): boolean {
  return kind === 'at least' ? value >= wanted : value <= wanted;
}

export function describeGoal(goal: Goal): string {
  const unit = goal.text.includes('MiB') ? ' MiB' : ' ×';
  const rounded = formatNumber(goal.value);
  // Rounding may hide a narrow miss.
  const isClear = holds({ ...goal, value: Number(rounded.replaceAll(',', '')) }) === holds(goal);
  const value = `${isClear ? rounded : goal.value.toFixed(4)}${unit}`;
  return `goal ${goal.text}: ${holds(goal) ? 'holds' : 'misses'} (${value}, wanted ${goal.kind} ${goal.wanted}${unit})`;
}

export function formatNumber(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en');
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2);
}
