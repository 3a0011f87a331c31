import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Negotiator from 'negotiator';
import type { DownloadOutcome } from '../observability/metrics.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { AppError } from '../shared/errors.ts';
import {
  type ByteRange,
  chooseAnswer,
  httpDate,
  type Representation,
} from './conditional-request.ts';
import { resetConnection } from './reset-connection.ts';

/** File that can be described without reading it, or opened. */
export interface Download {
  describe(): Promise<DownloadFile>;
  /** @param signal aborts when the connection is closed */
  open(signal: AbortSignal): Promise<OpenDownloadFile>;
}

export interface DownloadFile extends Representation {
  /** Headers about the whole file, in lower case, without those of `Representation`. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface OpenDownloadFile extends DownloadFile {
  /** Reads the file, or a range of it, once. */
  bytes(range?: ByteRange): AsyncIterable<Buffer>;
}

export interface EndedDownload {
  readonly outcome: DownloadOutcome;
  /** Bytes written to the connection, headers included. */
  readonly bytes: number;
  readonly seconds: number;
  /** Range that was sent; null for the whole file, or if the file could not be opened. */
  readonly range: ByteRange | null;
}

export interface SendOptions {
  readonly concurrencyLimit: ConcurrencyLimit;
  readonly environmentId: string;
  /** Time in ms without a byte sent after which the download is ended. */
  readonly stallTimeoutMs: number;
  /** Called once for every download that was begun or could not be opened. Must not throw. */
  readonly onEnd: (ended: EndedDownload) => void;
}

/**
 * Answers HEAD with the headers of a file, and GET with the file or a range of it.
 *
 * The file is sent at the pace of the reader. A failure or a stall after the first byte resets the
 * connection, so that a truncated file never looks complete.
 *
 * @throws AppError `too_many_downloads`, `precondition_failed`, `range_not_satisfiable`
 */
export async function sendDownload(
  request: FastifyRequest,
  reply: FastifyReply,
  download: Download,
  options: SendOptions,
): Promise<FastifyReply> {
  if (request.method === 'HEAD') {
    const { status, headers } = prepareAnswer(request, await download.describe());
    return reply.code(status).headers(headers).send();
  }
  const release = options.concurrencyLimit.acquire(options.environmentId);
  const controller = new AbortController();
  const progress = trackProgress(reply);
  const end = () => {
    controller.abort(new Error('The connection was closed.'));
    release();
    const ended = progress.end();
    if (ended !== null) options.onEnd(ended);
  };
  // A connection that is closed already does not emit its event again.
  if (reply.raw.closed || request.raw.destroyed) end();
  else reply.raw.once('close', end);

  try {
    const file = await download.open(controller.signal);
    const { status, headers, range } = prepareAnswer(request, file);
    if (status === 304) {
      progress.ignore();
      return reply.code(status).headers(headers).send();
    }
    progress.range = range;
    const body = await startReading(file.bytes(range ?? undefined));
    body.once('error', error => {
      // A write may fail before the response notices that the reader has disconnected.
      if (controller.signal.aborted || request.raw.socket.destroyed) return;
      progress.fail('failed');
      request.log.error({ err: error }, 'download failed');
      resetConnection(request.raw.socket);
    });
    watchReader(reply, options.stallTimeoutMs, () => progress.fail('stalled'));
    return reply.code(status).headers(headers).send(body);
  } catch (error) {
    if (error instanceof AppError && error.status < 500) progress.ignore();
    else if (!controller.signal.aborted) progress.fail('failed');
    throw error;
  }
}

export function acceptsGzip(request: FastifyRequest): boolean {
  return new Negotiator(request.raw).encodings(['gzip', 'identity'])[0] === 'gzip';
}

interface PreparedAnswer {
  readonly status: 200 | 206 | 304;
  readonly headers: Readonly<Record<string, string>>;
  readonly range: ByteRange | null;
}

/** @throws AppError `precondition_failed`, `range_not_satisfiable` */
function prepareAnswer(request: FastifyRequest, file: DownloadFile): PreparedAnswer {
  const { sizeBytes, lastModified } = file;
  const validators = {
    etag: file.etag,
    ...(lastModified !== null && { 'last-modified': httpDate(lastModified) }),
  };
  const whole = {
    ...file.headers,
    ...validators,
    ...(sizeBytes !== null && { 'accept-ranges': 'bytes', 'content-length': String(sizeBytes) }),
  };
  const answer = chooseAnswer(request.method, request.headers, file);
  switch (answer.status) {
    case 200:
      return { status: 200, headers: whole, range: null };
    case 206: {
      const { start, end } = answer.range;
      const headers = {
        ...whole,
        'content-length': String(end - start + 1),
        'content-range': `bytes ${start}-${end}/${sizeBytes}`,
      };
      return { status: 206, headers, range: answer.range };
    }
    case 304: {
      const kept = ['cache-control', 'vary'].flatMap(name => {
        const value = file.headers[name];
        return value === undefined ? [] : [[name, value]];
      });
      return { status: 304, headers: { ...Object.fromEntries(kept), ...validators }, range: null };
    }
    case 412:
      throw new AppError(
        'precondition_failed',
        'The file does not match If-Match or If-Unmodified-Since.',
      );
    case 416:
      throw new AppError('range_not_satisfiable', 'The range starts beyond the end of the file.', {
        headers: { 'content-range': `bytes */${sizeBytes}` },
      });
  }
}

/**
 * Reads the first piece, so that an error before the first byte is still answered with a problem.
 *
 * @returns a stream of all pieces that reads one only when the connection has taken the last
 */
async function startReading(bytes: AsyncIterable<Buffer>): Promise<Readable> {
  const iterator = bytes[Symbol.asyncIterator]();
  const first = await iterator.next();
  async function* pieces(): AsyncGenerator<Buffer> {
    try {
      for (let next = first; next.done !== true; next = await iterator.next()) yield next.value;
    } finally {
      await iterator.return?.();
    }
  }
  return Readable.from(pieces(), { objectMode: false, highWaterMark: 0 });
}

/** Resets the connection if the reader takes no byte for too long, or ends its own side. */
function watchReader(reply: FastifyReply, stallTimeoutMs: number, onStall: () => void): void {
  const { raw } = reply;
  const { socket } = reply.request.raw;
  // Node closes its side without a reset when the reader does. Its listener must run second.
  const onReaderEnd = () => resetConnection(socket);
  socket.prependListener('end', onReaderEnd);
  raw.once('close', () => socket.off('end', onReaderEnd));
  // Node emits a timeout only if no byte has left for half to the whole of this time. A listener of
  // the response keeps Node from ending the connection in an orderly way.
  raw.setTimeout(stallTimeoutMs / 2, () => {
    // Nothing waits for the reader if the database is slow.
    if (raw.writableLength === 0) return;
    onStall();
    resetConnection(socket);
  });
}

function trackProgress(reply: FastifyReply) {
  const { raw } = reply;
  const { socket } = reply.request.raw;
  const startedAt = performance.now();
  let bytesBefore = socket.bytesWritten;
  // Until then the previous answer on this connection is still being written.
  if (raw.socket === null) {
    raw.once('socket', () => {
      bytesBefore = socket.bytesWritten;
    });
  }
  let outcome: DownloadOutcome | null = null;
  let isIgnored = false;
  return {
    range: null as ByteRange | null,
    fail(how: DownloadOutcome): void {
      outcome ??= how;
    },
    /** Marks a request that turned out to be no download. */
    ignore(): void {
      isIgnored = true;
    },
    /** @returns null for a request that was no download */
    end(): EndedDownload | null {
      if (isIgnored) return null;
      return {
        outcome: outcome ?? (raw.writableFinished ? 'complete' : 'reader_gone'),
        bytes: socket.bytesWritten - bytesBefore,
        seconds: (performance.now() - startedAt) / 1000,
        range: this.range,
      };
    },
  };
}
