import { once } from 'node:events';
import type { FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type Actor, recordChange } from '../audit/audit-log.ts';
import type { Database } from '../db/database.ts';
import {
  acceptsGzip,
  type DownloadFile,
  type EndedDownload,
  sendDownload,
} from '../http/send-download.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { AppError } from '../shared/errors.ts';
import { extensionOf, type FileForm, mediaTypes } from '../shared/file-format.ts';
import { isoDate } from '../shared/iso-date.ts';
import type { Renderer } from '../snapshots/render/render-snapshot.ts';
import { type Aggregation, shownDates } from './aggregations.ts';
import type { ExportDescription, WantedExport } from './describe-export.ts';
import { describeExport, type ExportSource, type OpenExport, openExport } from './open-export.ts';
import type { ParquetPlaces } from './parquet/places.ts';

export interface ExportSenderDependencies extends ExportSource {
  readonly db: Database;
  readonly log: FastifyBaseLogger;
  readonly renderer: Renderer;
  readonly downloadLimit: ConcurrencyLimit;
  /** Limits downloads that hold a database connection because a snapshot is not rendered. */
  readonly sessionLimit: ConcurrencyLimit;
  /** Limits the conversions to Parquet. */
  readonly parquetPlaces: ParquetPlaces;
  /** Time in milliseconds without a byte sent after which a download is aborted. */
  readonly downloadStallMs: number;
  readonly metrics: Metrics;
  readonly now: () => Date;
}

/** File that a request asks for. */
export interface RequestedFile extends FileForm {
  readonly environmentId: string;
  readonly aggregation: Aggregation;
  /** UTC date, `YYYY-MM-DD`; null for the current date. */
  readonly asOf: string | null;
}

/** Author of the request, and the id of its download link; null without a link. */
interface Origin {
  readonly actor: Actor;
  readonly linkId: string | null;
}

/**
 * Returns a function that sends an export as a file. Every download is counted and written to the
 * audit log when it ends. The app waits for these lines when it closes.
 */
export function createExportSender(app: FastifyInstance, dependencies: ExportSenderDependencies) {
  const { db, log, metrics, now } = dependencies;
  const pending = new Set<Promise<void>>();
  app.addHook('onClose', async () => {
    await Promise.all(pending);
  });

  /**
   * Counts a download and writes its audit line. Never throws. Nothing waits for the audit log,
   * because the reader already has the file.
   */
  function record(
    { environmentId, aggregation, format, compression, asOf }: RequestedFile,
    { actor, linkId }: Origin,
    ended: EndedDownload,
    rowCount: number,
  ): void {
    const { outcome, bytes, range } = ended;
    const rows = outcome === 'complete' && range === null ? rowCount : 0;
    metrics.downloadEnded({ ...ended, rows });
    const sent = { format, compression, asOf, outcome, bytes };
    const line = recordChange(db, actor, {
      environmentId,
      action: 'export.downloaded',
      targetId: aggregation,
      details: { ...sent, ...(range !== null && { range }), ...(linkId !== null && { linkId }) },
    }).catch((error: unknown) => {
      const { requestId } = actor;
      log.error({ err: error, requestId, outcome }, 'audit line of a download lost');
    });
    pending.add(line);
    void line.finally(() => pending.delete(line));
  }

  /**
   * Renders the snapshots of a file that are not rendered.
   * @throws AppError `unavailable` if that takes longer than half the time of a stalled download
   */
  async function renderMissing(
    { sections }: ExportDescription,
    environmentId: string,
    signal: AbortSignal,
  ): Promise<void> {
    const late = AbortSignal.timeout(dependencies.downloadStallMs / 2);
    const stop = AbortSignal.any([signal, late]);
    for (const { snapshotDate, rendered } of sections) {
      if (rendered !== null) continue;
      const rendering = dependencies.renderer.render({ environmentId, date: snapshotDate }, stop);
      await Promise.race([rendering, once(stop, 'abort')]).catch((error: unknown) => {
        if (!late.aborted) throw error;
      });
      if (late.aborted) throw notRendered();
    }
  }

  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    file: RequestedFile,
    origin: Origin,
  ): Promise<FastifyReply> => {
    const { environmentId, format } = file;
    const asOf = file.asOf ?? isoDate(now());
    const dates = shownDates(file.aggregation, asOf);
    // Over HTTP/1.0 the end of the connection ends a file without a length, even if the process is
    // killed. A CSV is therefore sent with its length. Readers notice incomplete gzip and Parquet.
    const needsLength = request.raw.httpVersion === '1.0' && format === 'csv';
    let isEncoded = extensionOf(file) === 'csv' && acceptsGzip(request);
    let rowCount = 0;
    const wanted = (): WantedExport => {
      const compression = isEncoded ? 'gzip' : file.compression;
      return { environmentId, dates, format, compression };
    };
    const describe = async (): Promise<ExportDescription> => {
      const described = await describeExport(dependencies, wanted());
      if (!needsLength || !isEncoded || described.sizeBytes !== null) return described;
      isEncoded = false;
      return await describe();
    };
    const fileOf = (description: ExportDescription) =>
      describeFile(description, file, asOf, isEncoded);
    const open = async (signal: AbortSignal): Promise<OpenExport> => {
      if (needsLength) {
        await renderMissing(await describeExport(dependencies, wanted()), environmentId, signal);
        await describe();
      }
      const takePlace = () => dependencies.parquetPlaces.takeForDownload(environmentId);
      const takeSession = () => {
        if (needsLength) throw notRendered();
        return dependencies.sessionLimit.acquire(environmentId);
      };
      return await openExport(dependencies, wanted(), { signal, takePlace, takeSession });
    };
    const download = {
      describe: async () => fileOf(await describe()),
      async open(signal: AbortSignal) {
        const opened = await open(signal);
        rowCount = opened.rowCount;
        return { ...fileOf(opened), bytes: opened.bytes };
      },
    };
    return await sendDownload(request, reply, download, {
      concurrencyLimit: dependencies.downloadLimit,
      environmentId,
      stallTimeoutMs: dependencies.downloadStallMs,
      onEnd: ended => record(file, origin, ended, rowCount),
    });
  };
}

/** Error for a file over HTTP/1.0 whose length is not known yet. */
function notRendered(): AppError {
  return new AppError(
    'unavailable',
    'A snapshot of the file is not rendered yet. Try again later, or use HTTP/1.1.',
    { headers: { 'retry-after': '10' } },
  );
}

function describeFile(
  { rowCount, missingDates, contentHash, lastModified, sizeBytes }: ExportDescription,
  file: RequestedFile,
  asOf: string,
  isEncoded: boolean,
): DownloadFile {
  const extension = extensionOf(file);
  const mediaType = mediaTypes[extension];
  const fileName = `${file.environmentId}_${file.aggregation}_${asOf}.${extension}`;
  // The file of the current date changes at midnight without a new snapshot.
  const isSinceAsOf = lastModified !== null && isoDate(lastModified) >= asOf;
  return {
    headers: {
      'content-type':
        extension === 'csv' ? `${mediaType}; charset=utf-8; header=present` : mediaType,
      'content-disposition': `attachment; filename="${fileName}"`,
      'cache-control': 'private, no-cache',
      'x-total-rows': String(rowCount),
      ...(extension === 'csv' && { vary: 'accept-encoding' }),
      ...(isEncoded && { 'content-encoding': 'gzip' }),
      ...(missingDates.length > 0 && { 'x-missing-dates': missingDates.join(',') }),
    },
    etag: entityTag(contentHash, isEncoded ? 'csv-encoded' : extension),
    lastModified,
    isDateValidator: file.asOf !== null || isSinceAsOf,
    sizeBytes,
  };
}

/** Returns the strong entity tag of a file. Its forms have different bytes or headers. */
export function entityTag(contentHash: string, form: string): string {
  return `"${contentHash}-${form.replace('.', '-')}"`;
}
