import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Negotiator from 'negotiator';
import type { Slots } from './slots.ts';
import { limitReaderStall, stallTimeoutMs } from './stalls.ts';

/** A file that can be described, and opened to be sent. */
export interface Download {
  /** The headers, without opening it. */
  describe(): Promise<Record<string, string>>;
  /** The same headers and the bytes. The signal aborts when the reader is gone. */
  open(signal: AbortSignal): Promise<{ headers: Record<string, string>; bytes: AsyncIterable<Buffer> }>;
}

/**
 * Answers GET with the file at the reader's pace, HEAD with its headers. A failure on the way resets the connection, so
 * that a cut-off file never looks complete; a reader who goes away, or stalls, ends it.
 * @throws AppError `too_many_downloads`
 */
export async function sendDownload(
  request: FastifyRequest,
  reply: FastifyReply,
  { slots, environmentId, download }: { slots: Slots; environmentId: string; download: Download },
): Promise<FastifyReply> {
  if (request.method === 'HEAD') return reply.headers(await download.describe()).send();

  const giveBackSlot = slots.take(environmentId);
  const controller = new AbortController();
  const end = () => {
    controller.abort(new Error('The reader went away.'));
    giveBackSlot();
  };
  // A reader may have gone while the token was looked at; its close is not told twice.
  if (reply.raw.closed || request.raw.destroyed) end();
  else reply.raw.once('close', end);

  const { headers, bytes } = await download.open(controller.signal);
  const watched = limitReaderStall(bytes, stallTimeoutMs, () => request.raw.destroy());
  const body = Readable.from(watched, { objectMode: false });
  body.once('error', error => {
    if (controller.signal.aborted) return;
    request.log.error({ err: error }, 'download broke off');
    // Without a reset, a client that reads until the connection ends would take what came for the whole.
    if (reply.raw.headersSent) request.raw.socket.resetAndDestroy();
  });
  return reply.headers(headers).send(body);
}

export function acceptsGzip(request: FastifyRequest): boolean {
  return new Negotiator(request.raw).encodings(['gzip', 'identity'])[0] === 'gzip';
}
