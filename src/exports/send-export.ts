import { once } from 'node:events';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import { borrow } from '../db/borrow.ts';
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
import {
  describeExport,
  describeSections,
  type ExportDescription,
  isRendered,
} from './describe-export.ts';
import type { Queryable } from './find-sections.sql.ts';
import { type ExportSource, openExport } from './open-export.ts';
import type { ParquetPlaces } from './parquet/places.ts';

export interface ExportSenderDependencies extends ExportSource {
  readonly db: Database;
  readonly renderer: Renderer;
  readonly downloadLimit: ConcurrencyLimit;
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
  const { db, exportPool, metrics, now } = dependencies;
  const pending = new Set<Promise<void>>();
  app.addHook('onClose', async () => {
    await Promise.all(pending);
  });

  /**
   * Counts a download and writes its audit line. Never throws. Nothing waits for the audit log,
   * because the reader already has the file.
   */
  function record(
    request: FastifyRequest,
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
      request.log.error({ err: error, outcome }, 'audit line of a download lost');
    });
    pending.add(line);
    void line.finally(() => pending.delete(line));
  }

  /**
   * Renders the sections of a file that are not rendered. Gives up after half the time of a stalled
   * download.
   */
  async function renderMissing(
    { environmentId, sections }: ExportDescription,
    signal: AbortSignal,
  ): Promise<void> {
    const late = AbortSignal.timeout(dependencies.downloadStallMs / 2);
    const stop = AbortSignal.any([signal, late]);
    for (const { snapshotDate: date, rendered } of sections) {
      if (rendered !== null || stop.aborted) continue;
      const rendering = dependencies.renderer.render({ environmentId, date }, stop);
      await Promise.race([rendering, once(stop, 'abort')]).catch((error: unknown) => {
        if (!stop.aborted) throw error;
      });
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
    const isEncoded = extensionOf(file) === 'csv' && acceptsGzip(request);
    const compression = isEncoded ? 'gzip' : file.compression;
    const wanted = { environmentId, dates, format, compression };
    const describe = async (db: Queryable): Promise<ExportDescription> => {
      const described = await describeExport(db, wanted);
      const isPlain = needsLength && isEncoded && described.sizeBytes === null;
      return isPlain
        ? describeSections({ ...wanted, compression: 'none' }, described.sections)
        : described;
    };
    let rowCount = 0;
    const download = {
      describe: async () => describeFile(await describe(exportPool), file, asOf),
      async open(signal: AbortSignal) {
        let described = await borrow(exportPool, signal, describe);
        if (needsLength && !isRendered(described)) {
          await renderMissing(described, signal);
          described = await borrow(exportPool, signal, describe);
          // The time was too short, a snapshot was replaced, or a replica lags behind.
          if (!isRendered(described)) {
            const detail =
              'A snapshot of the file is not rendered yet. Try again later, or use HTTP/1.1.';
            throw new AppError('unavailable', detail, { headers: { 'retry-after': '10' } });
          }
        }
        const opened = await openExport(dependencies, described, {
          signal,
          takePlace: () => dependencies.parquetPlaces.takeForDownload(environmentId),
        });
        rowCount = opened.rowCount;
        return { ...describeFile(opened, file, asOf), bytes: opened.bytes };
      },
    };
    return await sendDownload(request, reply, download, {
      concurrencyLimit: dependencies.downloadLimit,
      environmentId,
      stallTimeoutMs: dependencies.downloadStallMs,
      onEnd: ended => record(request, file, origin, ended, rowCount),
    });
  };
}

function describeFile(
  description: ExportDescription,
  file: RequestedFile,
  asOf: string,
): DownloadFile {
  const { rowCount, missingDates, contentHash, lastModified, isDated, sizeBytes } = description;
  const isEncoded = description.compression !== file.compression;
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
    isDateValidator: isDated && (file.asOf !== null || isSinceAsOf),
    sizeBytes,
  };
}

/** Returns the strong entity tag of a file. Its forms have different bytes or headers. */
export function entityTag(contentHash: string, form: string): string {
  return `"${contentHash}-${form.replace('.', '-')}"`;
}
