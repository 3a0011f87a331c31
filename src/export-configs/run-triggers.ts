/** Reason why a run exists. */
export const runTriggers = ['schedule', 'manual', 'backfill', 'redelivery'] as const;
export type RunTrigger = (typeof runTriggers)[number];
