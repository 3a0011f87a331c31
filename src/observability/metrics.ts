import type { DownloadOutcome } from '../http/send-download.ts';

/**
 * What the parts of the service tell when they have done something, for whoever counts. Only sums come of it: nothing
 * that is told here may be about one customer.
 */
export interface Metrics {
  requestEnded(request: EndedRequest): void;
  downloadEnded(download: EndedDownload): void;
  loadEnded(load: EndedLoad): void;
  attemptEnded(attempt: EndedAttempt): void;
  runsEnded(state: 'successful' | 'failed', code: string | null, count?: number): void;
  renderingEnded(rendering: EndedRendering): void;
}

interface EndedRequest {
  readonly method: string;
  /** As it is written in the code, never as it was asked for. */
  readonly route: string;
  readonly status: number;
  readonly seconds: number;
}

interface EndedDownload {
  readonly outcome: DownloadOutcome;
  /** As they went over the connection. */
  readonly bytes: number;
  /** Of a complete file; 0 of any other. */
  readonly rows: number;
  readonly seconds: number;
}

export const loadOutcomes = ['complete', 'refused', 'sender_gone', 'stalled', 'failed'] as const;
export type LoadOutcome = (typeof loadOutcomes)[number];

interface EndedLoad {
  readonly outcome: LoadOutcome;
  /** Of the CSV, unpacked. */
  readonly bytes: number;
  readonly rows: number;
  readonly seconds: number;
}

export const attemptOutcomes = [
  'successful',
  'failed',
  'retry',
  'handed_back',
  'stopped',
  'waiting',
] as const;
export type AttemptOutcome = (typeof attemptOutcomes)[number];

/** One attempt at a run of an automatic export. */
interface EndedAttempt {
  readonly outcome: AttemptOutcome;
  /** Of the fault that it met. */
  readonly code: string | null;
  readonly bytes: number;
  readonly rows: number;
  readonly seconds: number;
}

/**
 * `present`: the version was rendered already. `superseded`: the version was replaced or deleted
 * meanwhile.
 */
export const renderingOutcomes = ['rendered', 'present', 'superseded', 'failed'] as const;
export type RenderingOutcome = Exclude<(typeof renderingOutcomes)[number], 'failed'>;

/** One attempt to render a snapshot. */
interface EndedRendering {
  readonly outcome: (typeof renderingOutcomes)[number];
  /** Bytes of CSV. */
  readonly bytes: number;
  readonly seconds: number;
}

/** What waits to be exported, over all processes. */
export interface QueueState {
  /** Jobs whose time has come and that no worker has taken. */
  readonly readyJobs: number;
  readonly oldestReadyJobSeconds: number;
  /** Jobs that wait for their next attempt. */
  readonly delayedJobs: number;
  readonly activeJobs: number;
  readonly queuedRuns: number;
  readonly runningRuns: number;
  /** Configs whose newest slot has no finished run: because its snapshot is not there, or because of us. */
  readonly lateForSnapshot: LateSlots;
  readonly lateForRun: LateSlots;
  /** Snapshots that wait to be rendered or are being rendered. */
  readonly waitingRenderings: number;
  /** How long the oldest of them has waited; 0 without any. */
  readonly oldestWaitingRenderingSeconds: number;
}

interface LateSlots {
  readonly slots: number;
  /** Since the oldest of these slots; 0 without any. */
  readonly oldestSeconds: number;
}
