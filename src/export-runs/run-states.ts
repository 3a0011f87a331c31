/**
 * Defines the states of a run and the transitions between them. The diagram in docs/architecture.md
 * shows all of them except those to the same state.
 */

export const runStates = ['queued', 'running', 'successful', 'failed'] as const;
export type RunState = (typeof runStates)[number];

/** State in which a run is inserted. */
export const initialState = 'queued' satisfies RunState;

interface Transition {
  readonly from: readonly RunState[];
  readonly to: RunState;
}

/** Every allowed change of state. A state that no transition starts from is final. */
export const transitions = {
  /** A worker begins an attempt. A running run had an attempt whose worker died. */
  begin: { from: ['queued', 'running'], to: 'running' },
  /** The attempt failed, and another one follows after a pause. */
  retry: { from: ['running'], to: 'queued' },
  /** The run goes back to the queue without an error. */
  requeue: { from: ['queued', 'running'], to: 'queued' },
  succeed: { from: ['running'], to: 'successful' },
  fail: { from: ['queued', 'running'], to: 'failed' },
} as const satisfies Record<string, Transition>;

/** Returns true if no transition starts from the state. */
export function isFinal(state: string): boolean {
  return !Object.values(transitions).some(({ from }) => from.some(other => other === state));
}
