import { Readable } from 'node:stream';
import type { Pool } from 'pg';
import { currentStep, duringStream, type Step } from '../observability/tracing.ts';
import { headerLine } from '../snapshots/columns.ts';
import type { ShownDate } from './aggregations.ts';
import { type Form, type Frame, framesOf, plainBytesOf } from './frames.ts';
import { gzipStream } from './gzip-stream.ts';
import type { PartStore } from './part-store.ts';
import { type ExportPart, type ExportPlan, findParts } from './plan-export.ts';
import { openReadSession, type ReadSession } from './read-session.ts';
import type { RenderTurns } from './render-turns.ts';

/** A file that is about to be written: what it will hold is settled, its bytes are read at the reader's pace. */
export interface OpenExport {
  readonly plan: ExportPlan;
  /**
   * The CSV, header first, or the same as gzip: the same bytes for the same snapshots, always. Once through; ends with
   * an error rather than early. Each piece is lent until the next is asked for.
   */
  bytes(): AsyncGenerator<Buffer>;
  /** Ends it in the middle; what the database still does for it is cancelled. Safe to call again. */
  close(): void;
}

export type Compression = 'none' | 'gzip';

export interface ExportSource {
  /** Where exports read. */
  readonly exportPool: Pool;
  /** null: every part is rendered anew. */
  readonly partStore: PartStore | null;
  /** null: parts are rendered without waiting for others. */
  readonly renderTurns: RenderTurns | null;
}

export interface OpenOptions {
  readonly compression: Compression;
  /** Ends it at once, also while the database is still sorting. */
  readonly signal: AbortSignal;
  /** Whether parts that have to be rendered are kept for the next who asks. */
  readonly keepParts: boolean;
}

/** So small a part is rendered in less time than a turn is worth waiting for. */
const rowsWithoutTurn = 20_000;

interface View {
  readonly plan: ExportPlan;
  readonly session: ReadSession;
}

/**
 * Opens the file of these dates. What it holds is one consistent view: parts that are kept are of just the versions that
 * the registry shows, and all others are read in the one repeatable-read transaction in which the registry was read.
 * With a kept part for every date it holds their files until it is read or closed, otherwise a connection.
 */
export async function openExport(
  { exportPool, partStore, renderTurns }: ExportSource,
  environmentId: string,
  dates: readonly ShownDate[],
  { compression, signal, keepParts }: OpenOptions,
): Promise<OpenExport> {
  // The bytes are asked for by others, outside of what goes on here.
  const here = currentStep();
  const form: Form = compression === 'none' ? 'plain' : 'deflated';
  const opened = await openView();
  const { plan } = opened;
  let session: ReadSession | null = opened.session;
  /** What the session's view shows. */
  let shown = plan;
  const held = (await partStore?.holdAll(plan.parts, form)) ?? null;
  signal.addEventListener('abort', close, { once: true });
  try {
    if (held !== null) await endSession();
  } catch (error) {
    close();
    throw error;
  }

  /** What is missing is read in the transaction in which the registry was read. */
  async function openView(): Promise<View> {
    const fresh = await openReadSession(exportPool, signal);
    try {
      return { plan: await findParts(fresh.client, environmentId, dates), session: fresh };
    } catch (error) {
      fresh.close();
      throw error;
    }
  }

  function close(): void {
    signal.removeEventListener('abort', close);
    session?.close();
    held?.close();
  }

  async function endSession(): Promise<void> {
    await session?.end();
    session = null;
  }

  /** The view that parts which were kept and are lost are read in; none of the parts may have been replaced before it. */
  async function viewOf(part: ExportPart): Promise<ReadSession> {
    if (session === null) ({ session, plan: shown } = await openView());
    if (!shown.parts.some(({ date, version }) => date === part.date && version === part.version)) {
      throw new Error(
        `Snapshot ${part.snapshotDate} of ${environmentId} was replaced while it was being read.`,
      );
    }
    return session;
  }

  /** Asked of the store when it needs the rows, which may be in the middle of the file. */
  async function* render(part: ExportPart, step: Step): AsyncGenerator<Buffer> {
    step.add({ 'whx.part.rendered': true });
    const { rows } = await viewOf(part);
    const read = () => rows(environmentId, part);
    if (renderTurns === null || part.rowCount <= rowsWithoutTurn) yield* read();
    else yield* renderTurns.inTurn(read, signal);
  }

  async function* frames(): AsyncGenerator<Frame> {
    try {
      yield* framesOf(Readable.from([Buffer.from(headerLine)]), form);
      for (const part of plan.parts) {
        const step = here.begin('part', {
          'whx.part.date': part.date,
          'whx.part.rows': part.rowCount,
          'whx.part.rendered': false,
        });
        const wanted = { form, keep: keepParts, held, render: () => render(part, step) };
        yield* duringStream(
          step,
          partStore?.frames(part, wanted) ?? framesOf(wanted.render(), form),
        );
      }
      await endSession();
    } finally {
      close();
    }
  }

  return {
    plan,
    bytes: () => (form === 'plain' ? plainBytesOf(frames(), form) : gzipStream(frames())),
    close,
  };
}
