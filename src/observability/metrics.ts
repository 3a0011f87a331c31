/**
 * Receives the events that the service counts. Implementations keep sums only: no value may
 * identify a customer.
 */
export interface Metrics {
  requestEnded(request: EndedRequest): void;
  downloadEnded(download: EndedDownload): void;
  ingestEnded(ingest: EndedIngest): void;
  attemptEnded(attempt: EndedAttempt): void;
  runsEnded(state: 'successful' | 'failed', code: string | null, count?: number): void;
  renderingEnded(rendering: EndedRendering): void;
}

interface EndedRequest {
  readonly method: string;
  /** Route pattern as declared in the code, never the requested path. */
  readonly route: string;
  readonly status: number;
  readonly seconds: number;
}

export const downloadOutcomes = ['complete', 'reader_gone', 'stalled', 'failed'] as const;
export type DownloadOutcome = (typeof downloadOutcomes)[number];

interface EndedDownload {
  readonly outcome: DownloadOutcome;
  /** Bytes sent over the connection, after any compression. */
  readonly bytes: number;
  /** Rows of a complete file; 0 if the download did not complete. */
  readonly rows: number;
  readonly seconds: number;
}

export const ingestOutcomes = ['complete', 'refused', 'sender_gone', 'stalled', 'failed'] as const;
export type IngestOutcome = (typeof ingestOutcomes)[number];

interface EndedIngest {
  readonly outcome: IngestOutcome;
  /** Bytes of CSV after decompression. */
  readonly bytes: number;
  readonly rows: number;
  readonly seconds: number;
}

export const attemptOutcomes = [
  'successful',
  'failed',
  'retry',
  'requeued',
  'cancelled',
  'waiting',
] as const;
export type AttemptOutcome = (typeof attemptOutcomes)[number];

/** Attempt at a run of an automatic export. */
interface EndedAttempt {
  readonly outcome: AttemptOutcome;
  /** Code of the error that the attempt met; null if none. */
  readonly code: string | null;
  readonly bytes: number;
  readonly rows: number;
  readonly seconds: number;
}

/**
 * Outcomes of rendering. `present`: the version was already rendered. `superseded`: the version was
 * replaced or deleted meanwhile.
 */
export const renderingOutcomes = ['rendered', 'present', 'superseded', 'failed'] as const;
export type RenderingOutcome = Exclude<(typeof renderingOutcomes)[number], 'failed'>;

/** Attempt to render a snapshot. */
interface EndedRendering {
  readonly outcome: (typeof renderingOutcomes)[number];
  /** Bytes of CSV. */
  readonly bytes: number;
  readonly seconds: number;
}

/** Work that waits in the database, for all processes together. */
export interface QueueState {
  /** Jobs that are due and that no worker has taken. */
  readonly readyJobs: number;
  readonly oldestReadyJobSeconds: number;
  /** Jobs that wait for their next attempt. */
  readonly delayedJobs: number;
  readonly activeJobs: number;
  readonly queuedRuns: number;
  readonly runningRuns: number;
  /** Enabled configs whose newest slot has no finished run because its snapshot is missing. */
  readonly lateForSnapshot: LateSlots;
  /** Enabled configs whose newest slot has no finished run although its snapshot is present. */
  readonly lateForRun: LateSlots;
  /** Snapshots that wait to be rendered or are being rendered. */
  readonly waitingRenderings: number;
  /** Seconds that the oldest of these snapshots has waited; 0 if none waits. */
  readonly oldestWaitingRenderingSeconds: number;
}

interface LateSlots {
  readonly slots: number;
  /** Seconds since the oldest of these slots; 0 if there is none. */
  readonly oldestSeconds: number;
}
