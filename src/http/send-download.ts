import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Negotiator from 'negotiator';
import type { DownloadOutcome, Metrics } from '../observability/metrics.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { breakOff } from './break-off.ts';
import { stallTimeoutMs } from './stalls.ts';

/** A file that can be described, and opened to be sent. */
export interface Download {
  /** The headers, without opening it. */
  describe(): Promise<Record<string, string>>;
  /** The same headers and the bytes. The signal aborts when the reader is gone. */
  open(signal: AbortSignal): Promise<OpenDownload>;
}

interface OpenDownload {
  readonly headers: Record<string, string>;
  /** Each piece is lent until the next is asked for. */
  readonly bytes: AsyncIterable<Buffer>;
  readonly rowCount: number;
}

interface SendOptions {
  readonly concurrencyLimit: ConcurrencyLimit;
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
  { concurrencyLimit, metrics, environmentId, download }: SendOptions,
): Promise<FastifyReply> {
  if (request.method === 'HEAD') return reply.headers(await download.describe()).send();

  const release = concurrencyLimit.acquire(environmentId);
  const controller = new AbortController();
  const report = reportDownload(metrics, reply);
  const end = () => {
    controller.abort(new Error('The reader went away.'));
    release();
    report.end();
  };
  // A reader may have gone while the token was looked at; its close is not told twice.
  if (reply.raw.closed || request.raw.destroyed) end();
  else reply.raw.once('close', end);

  const { headers, bytes, rowCount } = await download
    .open(controller.signal)
    .catch((error: unknown) => {
      if (!controller.signal.aborted) report.failed('failed');
      throw error;
    });
  report.opened(rowCount);
  // From here on the bytes are ours to write: a buffer is used again once the socket has taken what is in it.
  reply.hijack();
  const write = createWriter(reply.raw, controller.signal, () => report.failed('stalled'));
  try {
    reply.raw.writeHead(200, withHeaders(reply.getHeaders() as OutgoingHttpHeaders, headers));
    for await (const piece of bytes) await write(piece);
    limitStall(reply.raw);
    reply.raw.end();
  } catch (error) {
    // A write may hear before us that the reader is gone.
    if (controller.signal.aborted || request.raw.socket.destroyed) return reply;
    report.failed('failed');
    request.log.error({ err: error }, 'download broke off');
    breakOff(request.raw.socket);
  }
  return reply;
}

/**
 * Writes one piece after the other; resolves once it is out of our hands, so that its memory may be used again.
 * @param gone aborts when the answer has ended, well or not: not every write hears of that
 * @param onStall called before the connection is closed because no byte of a piece has moved for a minute
 */
function createWriter(
  raw: ServerResponse,
  gone: AbortSignal,
  onStall: () => void,
): (piece: Buffer) => Promise<void> {
  let giveUp = (_reason: unknown) => {};
  const { socket } = raw.req;
  const stalled = () => {
    onStall();
    breakOff(socket);
  };
  // Node ends its own side as well when a caller ends theirs, so we have to be first.
  const ended = () => breakOff(socket);
  socket.on('timeout', stalled);
  socket.prependListener('end', ended);
  const stop = () => {
    socket.off('timeout', stalled);
    socket.off('end', ended);
    giveUp(gone.reason);
  };
  gone.addEventListener('abort', stop, { once: true });
  // An answer that waits for the one before it on the same connection has no socket yet.
  raw.once('socket', () => limitStall(raw));
  return async piece => {
    gone.throwIfAborted();
    limitStall(raw);
    await new Promise<void>((resolve, reject) => {
      giveUp = reject;
      raw.write(piece, error => (error ? reject(error) : resolve()));
    });
    raw.socket?.setTimeout(0);
  };
}

/**
 * Node looks twice: what has left since the first time is progress, so a reader who is only slow goes on. After the last
 * byte it sets the time-out of idle connections in its place.
 */
function limitStall(raw: ServerResponse): void {
  raw.socket?.setTimeout(stallTimeoutMs / 2);
}

/** No hook of Fastify comes after this: what others said of `Vary` has to stay. */
function withHeaders(
  before: OutgoingHttpHeaders,
  headers: Record<string, string>,
): OutgoingHttpHeaders {
  const vary = [headers['vary'], before['vary']].filter(value => value !== undefined).join(', ');
  return { ...before, ...headers, ...(vary === '' ? {} : { vary }) };
}

function reportDownload(metrics: Metrics, reply: FastifyReply) {
  const { raw } = reply;
  const { socket } = reply.request.raw;
  const startedAt = performance.now();
  let bytesBefore = socket.bytesWritten;
  // Until then the answer before it is still being written.
  if (raw.socket === null) {
    raw.once('socket', () => {
      bytesBefore = socket.bytesWritten;
    });
  }
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
      outcome ??= raw.writableFinished ? 'complete' : 'reader_gone';
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
