import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Negotiator from 'negotiator';
import type { Environment } from '../environments/environments.ts';
import type { Slots } from '../http/slots.ts';
import { limitReaderStall, stallTimeoutMs } from '../http/stalls.ts';
import { type Aggregation, shownDates } from './aggregations.ts';
import { type ExportPlan, findParts } from './find-parts.ts';
import { type ExportSource, openExport } from './open-export.ts';

export interface SendExportDependencies extends ExportSource {
  readonly downloadSlots: Slots;
  readonly now: () => Date;
}

/** How the file leaves: plain, packed for the way only, or as a gzip file. */
type Packing = 'none' | 'content-encoding' | 'gzip-file';

/**
 * Answers with the file: the headers first, which say how many rows there are, then the bytes at the reader's pace. A
 * failure on the way resets the connection, so that a cut-off file never looks complete; a reader who goes away stops
 * the query.
 */
export async function sendExport(
  { exportPool, partStore, downloadSlots, now }: SendExportDependencies,
  request: FastifyRequest,
  reply: FastifyReply,
  wanted: { environment: Environment; aggregation: Aggregation; gzipFile: boolean },
): Promise<FastifyReply> {
  const today = now().toISOString().slice(0, 10);
  const dates = shownDates(wanted.aggregation, today);
  const packing = wanted.gzipFile ? 'gzip-file' : wantsGzip(request) ? 'content-encoding' : 'none';
  const fileName = `${wanted.environment.id}_${wanted.aggregation}_${today}.csv`;

  if (request.method === 'HEAD') {
    const plan = await findParts(exportPool, wanted.environment.id, dates);
    return setHeaders(reply, plan, packing, fileName).send();
  }

  const giveBackSlot = downloadSlots.take(wanted.environment.id);
  const controller = new AbortController();
  reply.raw.once('close', () => {
    controller.abort(new Error('The reader went away.'));
    giveBackSlot();
  });
  const opened = await openExport({ exportPool, partStore }, wanted.environment.id, dates, controller.signal);
  const bytes = opened.bytes(packing === 'none' ? 'none' : 'gzip');
  const watched = limitReaderStall(bytes, stallTimeoutMs, () => request.raw.destroy());
  const body = Readable.from(watched, { objectMode: false });
  body.once('error', error => {
    request.log.error({ err: error }, 'export broke off');
    // Without a reset, a client that reads until the connection ends would take what came for the whole.
    if (reply.raw.headersSent) request.raw.socket.resetAndDestroy();
  });
  return setHeaders(reply, opened.plan, packing, fileName).send(body);
}

function wantsGzip(request: FastifyRequest): boolean {
  const encodings = new Negotiator(request.raw).encodings(['gzip', 'identity']);
  return encodings[0] === 'gzip';
}

function setHeaders(reply: FastifyReply, plan: ExportPlan, packing: Packing, fileName: string): FastifyReply {
  const isFile = packing === 'gzip-file';
  reply.headers({
    'content-type': isFile ? 'application/gzip' : 'text/csv; charset=utf-8; header=present',
    'content-disposition': `attachment; filename="${fileName}${isFile ? '.gz' : ''}"`,
    'cache-control': 'private, no-store',
    'x-total-rows': String(plan.rowCount),
  });
  if (!isFile) reply.header('vary', 'accept-encoding');
  if (packing === 'content-encoding') reply.header('content-encoding', 'gzip');
  if (plan.missingDates.length > 0) reply.header('x-missing-dates', plan.missingDates.join(','));
  return reply;
}
