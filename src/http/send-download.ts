import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Negotiator from 'negotiator';
import type { DownloadOutcome, Metrics } from '../metrics.ts';
import type { Slots } from './slots.ts';
import { limitReaderStall, stallTimeoutMs } from './stalls.ts';

/** A file that can be described, and opened to be sent. */
export interface Download {
  /** The headers, without opening it. */
  describe(): Promise<Record<string, string>>;
  /** The same headers and the bytes. The signal aborts when the reader is gone. */
  open(signal: AbortSignal): Promise<OpenDownload>;
}

interface OpenDownload {
  readonly headers: Record<string, string>;
  readonly bytes: AsyncIterable<Buffer>;
  readonly rowCount: number;
}

interface SendOptions {
  readonly slots: Slots;
  readonly metrics: Metrics;
  readonly environmentId: string;
  readonly download: Download;
}

/**
 * Answers GET with the file at the reader's pace, HEAD with its headers. A failure on the way resets the connection, so
 * that a cut-off file never looks complete; a reader who goes away, or stalls, ends it.
 * @throws AppError `too_many_downloads`
 */
export async function sendDownload(
  request: FastifyRequest,
  reply: FastifyReply,
  { slots, metrics, environmentId, download }: SendOptions,
): Promise<FastifyReply> {
  if (request.method === 'HEAD') return reply.headers(await download.describe()).send();

  const giveBackSlot = slots.take(environmentId);
  const controller = new AbortController();
  const report = reportDownload(metrics, reply);
  const end = () => {
    controller.abort(new Error('The reader went away.'));
    giveBackSlot();
    report.end();
  };
  // A reader may have gone while the token was looked at; its close is not told twice.
  if (reply.raw.closed || request.raw.destroyed) end();
  else reply.raw.once('close', end);

  const { headers, bytes, rowCount } = await download.open(controller.signal).catch((error: unknown) => {
    if (!controller.signal.aborted) report.failed('failed');
    throw error;
  });
  report.opened(rowCount);
  const watched = limitReaderStall(bytes, stallTimeoutMs, () => {
    report.failed('stalled');
    request.raw.destroy();
  });
  const body = Readable.from(watched, { objectMode: false });
  body.once('error', error => {
    if (controller.signal.aborted) return;
    report.failed('failed');
    request.log.error({ err: error }, 'download broke off');
    // Without a reset, a client that reads until the connection ends would take what came for the whole.
    if (reply.raw.headersSent) request.raw.socket.resetAndDestroy();
  });
  return reply.headers(headers).send(body);
}

function reportDownload(metrics: Metrics, reply: FastifyReply) {
  const { socket } = reply.request.raw;
  const startedAt = performance.now();
  const bytesBefore = socket.bytesWritten;
  let outcome: DownloadOutcome | null = null;
  let rowCount = 0;
  return {
    opened(rows: number) {
      rowCount = rows;
    },
    failed(how: DownloadOutcome) {
      outcome ??= how;
    },
    end() {
      outcome ??= reply.raw.writableFinished ? 'complete' : 'reader_gone';
      metrics.downloadEnded({
        outcome,
        bytes: socket.bytesWritten - bytesBefore,
        rows: outcome === 'complete' ? rowCount : 0,
        seconds: (performance.now() - startedAt) / 1000,
      });
    },
  };
}

export function acceptsGzip(request: FastifyRequest): boolean {
  return new Negotiator(request.raw).encodings(['gzip', 'identity'])[0] === 'gzip';
}
