import type { Pool } from 'pg';
import type { S3Server } from '../dev/s3-server.ts';

/** What every measurement is given. */
export interface Bench {
  readonly databaseUrl: string;
  readonly pool: Pool;
  /** For files; removed at the end. */
  readonly directory: string;
  /** The closed day that everything is about. */
  readonly date: string;
  /** Holds `rows` rows of that day. */
  readonly environmentId: string;
  readonly rows: number;
  /** How many measurements each median is of. */
  readonly rounds: number;
  /** Sizes for growth, each four times the one before. */
  readonly sizes: readonly number[];
  /** How many configs are due in a tick. */
  readonly configCounts: readonly number[];
  /** psql is there; else a Node process issues the same COPY. */
  readonly hasPsql: boolean;
  /** Of the server that was started for the bench; null: another was given. */
  readonly postmasterPid: number | null;
  /** null: the comparisons that need it are left out. */
  readonly s3: S3Server | null;
}

/** One line of the goals. */
export interface Goal {
  readonly text: string;
  readonly wanted: number;
  readonly value: number;
  /** Whether the value has to be at least, or at most, what is wanted. */
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
  /** How it was measured, and what was left out and why. */
  readonly notes: readonly string[];
  /** For the plot. */
  readonly bars: readonly Bar[];
}

export function holds({ kind, value, wanted }: Goal): boolean {
  return kind === 'at least' ? value >= wanted : value <= wanted;
}

export function describeGoal(goal: Goal): string {
  const unit = goal.text.includes('MiB') ? ' MiB' : ' ×';
  const value = `${formatNumber(goal.value)}${unit}`;
  return `goal ${goal.text}: ${holds(goal) ? 'holds' : 'misses'} (${value}, wanted ${goal.kind} ${goal.wanted}${unit})`;
}

export function formatNumber(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en');
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2);
}
