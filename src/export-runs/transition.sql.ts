import type { DatabaseOrTransaction } from '../db/database.ts';
import { transitions } from './run-states.ts';

/**
 * Returns an update of all runs that may take the transition. The caller narrows it to runs. Only
 * this function writes the state of existing runs. After it no attempt completes an object.
 */
export function transition(db: DatabaseOrTransaction, name: keyof typeof transitions) {
  const { from, to } = transitions[name];
  return db
    .updateTable('export_runs as run')
    .set({ state: to, is_completing: false })
    .where('run.state', 'in', from);
}
