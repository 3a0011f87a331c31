import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify';
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
import {
  describeExport,
  type ExportDescription,
  type ExportSource,
  type OpenExport,
  openExport,
} from './open-export.ts';
import { describeParquet, type OpenParquet, openParquet } from './parquet/open-parquet.ts';
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

export interface ExportRequest extends FileForm {
  readonly environmentId: string;
  readonly aggregation: Aggregation;
  /** UTC date, `YYYY-MM-DD`; null for the current date. */
  readonly asOf: string | null;
  readonly actor: Actor;
  /** Id of the download link; null without a link. */
  readonly linkId: string | null;
}

export interface ExportSender {
  send(request: FastifyRequest, reply: FastifyReply, wanted: ExportRequest): Promise<FastifyReply>;
  /** Resolves when the audit log contains every ended download. */
  settled(): Promise<void>;
}

/** Representations of a file. Their bytes and their entity tags differ. */
type Representation = 'csv' | 'csv-encoded' | 'csv-gz' | 'parquet';

/** Sends exports as files. Every download is counted and written to the audit log when it ends. */
export function createExportSender(dependencies: ExportSenderDependencies): ExportSender {
  const { db, log, metrics, now } = dependencies;
  const pending = new Set<Promise<void>>();

  /**
   * Counts a download and writes its audit line. Never throws. Nothing waits for the audit log,
   * because the reader already has the file.
   */
  function record(wanted: ExportRequest, ended: EndedDownload, rowCount: number): void {
    const { outcome, bytes, range } = ended;
    const rows = outcome === 'complete' && range === null ? rowCount : 0;
    metrics.downloadEnded({ ...ended, rows });
    const line = recordChange(db, wanted.actor, {
      environmentId: wanted.environmentId,
      action: 'export.downloaded',
      targetId: wanted.aggregation,
      details: {
        format: wanted.format,
        compression: wanted.compression,
        asOf: wanted.asOf,
        outcome,
        bytes,
        ...(range !== null && { range }),
        ...(wanted.linkId !== null && { linkId: wanted.linkId }),
      },
    }).catch((error: unknown) => {
      log.error(
        { err: error, requestId: wanted.actor.requestId, outcome },
        'audit line of a download lost',
      );
    });
    pending.add(line);
    void line.finally(() => pending.delete(line));
  }

  /** @throws AppError `too_many_downloads` */
  function acquireSession(
    environmentId: string,
    opened: OpenExport | OpenParquet,
    signal: AbortSignal,
  ): void {
    try {
      const release = dependencies.sessionLimit.acquire(environmentId);
      if (signal.aborted) release();
      else signal.addEventListener('abort', release, { once: true });
    } catch (error) {
      opened.close();
      throw error;
    }
  }

  return {
    async send(request, reply, wanted) {
      const asOf = wanted.asOf ?? isoDate(now());
      const dates = shownDates(wanted.aggregation, asOf);
      const representation = chooseRepresentation(request, wanted);
      const compression = representation === 'csv' ? 'none' : 'gzip';
      const { environmentId } = wanted;
      const fileOf = (description: ExportDescription) =>
        describeFile(description, wanted, asOf, representation);
      let rowCount = 0;
      const download = {
        async describe() {
          const described =
            representation === 'parquet'
              ? describeParquet(dependencies, environmentId, dates)
              : describeExport(dependencies, environmentId, dates, compression);
          return fileOf(await described);
        },
        async open(signal: AbortSignal) {
          const takePlace = () => dependencies.parquetPlaces.takeForDownload(environmentId);
          const opened =
            representation === 'parquet'
              ? await openParquet(dependencies, environmentId, dates, { signal, takePlace })
              : await openExport(dependencies, environmentId, dates, { compression, signal });
          if (opened.plan.sections.some(({ rendered }) => rendered === null)) {
            acquireSession(environmentId, opened, signal);
          }
          rowCount = opened.plan.rowCount;
          return { ...fileOf(opened), bytes: opened.bytes };
        },
      };
      return await sendDownload(request, reply, download, {
        concurrencyLimit: dependencies.downloadLimit,
        environmentId,
        stallTimeoutMs: dependencies.downloadStallMs,
        onEnd: ended => record(wanted, ended, rowCount),
      });
    },
    async settled() {
      await Promise.all(pending);
    },
  };
}

function chooseRepresentation(
  request: FastifyRequest,
  { format, compression }: ExportRequest,
): Representation {
  if (format === 'parquet') return 'parquet';
  if (compression === 'gzip') return 'csv-gz';
  return acceptsGzip(request) ? 'csv-encoded' : 'csv';
}

function describeFile(
  { plan, contentHash, lastModified, sizeBytes }: ExportDescription,
  wanted: ExportRequest,
  asOf: string,
  representation: Representation,
): DownloadFile {
  const extension = extensionOf(wanted);
  const mediaType = mediaTypes[extension];
  const isNegotiated = representation === 'csv' || representation === 'csv-encoded';
  const fileName = `${wanted.environmentId}_${wanted.aggregation}_${asOf}.${extension}`;
  // The file of the current date changes at midnight without a new snapshot.
  const isSinceAsOf = lastModified !== null && isoDate(lastModified) >= asOf;
  return {
    headers: {
      'content-type':
        extension === 'csv' ? `${mediaType}; charset=utf-8; header=present` : mediaType,
      'content-disposition': `attachment; filename="${fileName}"`,
      'cache-control': 'private, no-cache',
      'x-total-rows': String(plan.rowCount),
      ...(isNegotiated ? { vary: 'accept-encoding' } : {}),
      ...(representation === 'csv-encoded' ? { 'content-encoding': 'gzip' } : {}),
      ...(plan.missingDates.length > 0 ? { 'x-missing-dates': plan.missingDates.join(',') } : {}),
    },
    etag: entityTag(contentHash, representation),
    lastModified,
    isDateValidator: wanted.asOf !== null || isSinceAsOf,
    sizeBytes,
  };
}

/** Returns the strong entity tag of a representation of a file. */
export function entityTag(contentHash: string, representation: Representation): string {
  return `"${contentHash}-${representation}"`;
}
