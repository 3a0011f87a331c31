/** Defines the events of exports and their data. */

/** Events that a webhook can select. */
export const eventTypes = [
  'export.succeeded',
  'export.failed',
  'export.recovered',
  'export.turned_off',
] as const;
export type EventType = (typeof eventTypes)[number];

/** Selection of a webhook that names no events. */
export const defaultEventTypes: readonly EventType[] = [
  'export.failed',
  'export.recovered',
  'export.turned_off',
];

/** Returns the selected events without duplicates, always in the same order. */
export function sortEventTypes(types: readonly EventType[]): EventType[] {
  return eventTypes.filter(type => types.includes(type));
}

/** Run that an event is about. */
export interface EventRun {
  readonly environmentId: string;
  readonly configId: string;
  readonly configName: string;
  readonly runId: string;
  /** Slot of a scheduled run; null for other runs. */
  readonly slot: Date | null;
  /** YYYY-MM-DD */
  readonly snapshotDate: string;
}

/** Object that a run has written. */
export interface WrittenObject {
  readonly objectKey: string;
  /** Key of the manifest; null if the config has none. */
  readonly manifestKey: string | null;
  readonly bytes: number;
  readonly rowCount: number;
  /** SHA-256 of the object in lower-case hex. */
  readonly sha256: string;
}

interface EventError {
  readonly code: string;
  readonly message: string;
}

type RunData = ReturnType<typeof runData>;

/** Data of an event for the receiver. Never a secret. */
export type NewEvent =
  | { readonly type: 'export.succeeded'; readonly data: RunData & WrittenObject }
  | {
      readonly type: Exclude<EventType, 'export.succeeded'>;
      readonly data: RunData & {
        /** Error of the run; null if it succeeded. */
        readonly error: EventError | null;
        /** Consecutive failed runs, including this one. */
        readonly consecutiveFailures: number;
      };
    };

/** Returns the event of a successful run. */
export function succeededEvent(run: EventRun, object: WrittenObject): NewEvent {
  const { objectKey, manifestKey, bytes, rowCount, sha256 } = object;
  return {
    type: 'export.succeeded',
    data: { ...runData(run), objectKey, manifestKey, bytes, rowCount, sha256 },
  };
}

/** Returns the event of a successful run that ends a streak of failures. */
export function recoveredEvent(run: EventRun): NewEvent {
  return {
    type: 'export.recovered',
    data: { ...runData(run), error: null, consecutiveFailures: 0 },
  };
}

/**
 * Returns the event of a failed run.
 * @param consecutiveFailures including this one
 */
export function failedEvent(
  type: 'export.failed' | 'export.turned_off',
  run: EventRun,
  { code, message }: EventError,
  consecutiveFailures: number,
): NewEvent {
  return { type, data: { ...runData(run), error: { code, message }, consecutiveFailures } };
}

/** Lists the fields explicitly, in the order in which the receiver reads them. */
function runData(run: EventRun) {
  return {
    environmentId: run.environmentId,
    configId: run.configId,
    configName: run.configName,
    runId: run.runId,
    slot: run.slot?.toISOString() ?? null,
    snapshotDate: run.snapshotDate,
  };
}
