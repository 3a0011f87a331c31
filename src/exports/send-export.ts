import type { FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type Actor, recordChange } from '../audit/audit-log.ts';
import type { Database } from '../db/database.ts';
import { isoDate } from '../http/schemas.ts';
import {
  acceptsGzip,
  type DownloadFile,
  type EndedDownload,
  sendDownload,
} from '../http/send-download.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { extensionOf, type FileForm, mediaTypes } from '../shared/file-format.ts';
import { type Aggregation, shownDates } from './aggregations.ts';
import type { ExportDescription, OpenExport } from './describe-export.ts';
import { describeExport, type ExportSource, openExport } from './open-export.ts';
import type { ParquetPlaces } from './parquet/places.ts';

export interface ExportSenderDependencies extends ExportSource {
  readonly db: Database;
  readonly log: FastifyBaseLogger;
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

/** Sends an export as a file. */
export type SendExport = (
  request: FastifyRequest,
  reply: FastifyReply,
  file: RequestedFile,
  origin: Origin,
) => Promise<FastifyReply>;

/**
 * Every download is counted and written to the audit log when it ends. The app waits for these
 * lines when it closes.
 */
export function createExportSender(
  app: FastifyInstance,
  dependencies: ExportSenderDependencies,
): SendExport {
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

  return async (request, reply, file, origin) => {
    const { environmentId, format } = file;
    const asOf = file.asOf ?? isoDate(now());
    const dates = shownDates(file.aggregation, asOf);
    const isEncoded = extensionOf(file) === 'csv' && acceptsGzip(request);
    let rowCount = 0;
    const compression = isEncoded ? 'gzip' : file.compression;
    const wanted = { environmentId, dates, format, compression };
    const fileOf = (description: ExportDescription) =>
      describeFile(description, file, asOf, isEncoded);
    const open = async (signal: AbortSignal): Promise<OpenExport> => {
      const takePlace = () => dependencies.parquetPlaces.takeForDownload(environmentId);
      const opened = await openExport(dependencies, wanted, { signal, takePlace });
      if (opened.plan.sections.every(({ rendered }) => rendered !== null)) return opened;
      try {
        const release = dependencies.sessionLimit.acquire(environmentId);
        if (signal.aborted) release();
        else signal.addEventListener('abort', release, { once: true });
        return opened;
      } catch (error) {
        opened.close();
        throw error;
      }
    };
    const download = {
      describe: async () => fileOf(await describeExport(dependencies, wanted)),
      async open(signal: AbortSignal) {
        const opened = await open(signal);
        rowCount = opened.plan.rowCount;
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

function describeFile(
  { plan, contentHash, lastModified, sizeBytes }: ExportDescription,
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
      'x-total-rows': String(plan.rowCount),
      ...(extension === 'csv' && { vary: 'accept-encoding' }),
      ...(isEncoded && { 'content-encoding': 'gzip' }),
      ...(plan.missingDates.length > 0 && { 'x-missing-dates': plan.missingDates.join(',') }),
    },
    etag: entityTag(contentHash, isEncoded ? 'csv-encoded' : extension),
    lastModified,
    isDateValidator: file.asOf !== null || isSinceAsOf,
    sizeBytes,
  };
}

/** Returns the strong entity tag of a file. Its forms have different bytes or headers. */
export function entityTag(contentHash: string, form: string): string {
  return `"${contentHash}-${form}"`;
}
