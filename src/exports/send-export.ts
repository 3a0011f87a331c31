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
import { type Aggregation, shownDates } from './aggregations.ts';
import {
  type Compression,
  describeExport,
  type ExportDescription,
  type ExportSource,
  type OpenExport,
  openExport,
} from './open-export.ts';

export interface ExportSenderDependencies extends ExportSource {
  readonly db: Database;
  readonly log: FastifyBaseLogger;
  readonly downloadLimit: ConcurrencyLimit;
  /** Limits downloads that hold a database connection because a snapshot is not rendered. */
  readonly sessionLimit: ConcurrencyLimit;
  /** Time in milliseconds without a byte sent after which a download is aborted. */
  readonly downloadStallMs: number;
  readonly metrics: Metrics;
  readonly now: () => Date;
}

export interface ExportRequest {
  readonly environmentId: string;
  readonly aggregation: Aggregation;
  /** UTC date, `YYYY-MM-DD`; null for the current date. */
  readonly asOf: string | null;
  /** `gzip` sends a `.csv.gz` file. */
  readonly compression: Compression;
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
type Representation = 'csv' | 'csv-encoded' | 'csv-gz';

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
        format: 'csv',
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
  function acquireSession(environmentId: string, opened: OpenExport, signal: AbortSignal): void {
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
      const representation =
        wanted.compression === 'gzip' ? 'csv-gz' : acceptsGzip(request) ? 'csv-encoded' : 'csv';
      const compression = representation === 'csv' ? 'none' : 'gzip';
      const fileOf = (description: ExportDescription) =>
        describeFile(description, wanted, asOf, representation);
      let rowCount = 0;
      const download = {
        async describe() {
          const { environmentId } = wanted;
          return fileOf(await describeExport(dependencies, environmentId, dates, compression));
        },
        async open(signal: AbortSignal) {
          const options = { compression, signal } as const;
          const opened = await openExport(dependencies, wanted.environmentId, dates, options);
          if (opened.plan.sections.some(({ rendered }) => rendered === null)) {
            acquireSession(wanted.environmentId, opened, signal);
          }
          rowCount = opened.plan.rowCount;
          return { ...fileOf(opened), bytes: opened.bytes };
        },
      };
      return await sendDownload(request, reply, download, {
        concurrencyLimit: dependencies.downloadLimit,
        environmentId: wanted.environmentId,
        stallTimeoutMs: dependencies.downloadStallMs,
        onEnd: ended => record(wanted, ended, rowCount),
      });
    },
    async settled() {
      await Promise.all(pending);
    },
  };
}

function describeFile(
  { plan, contentHash, lastModified, sizeBytes }: ExportDescription,
  { environmentId, aggregation, asOf: requestedDate }: ExportRequest,
  asOf: string,
  representation: Representation,
): DownloadFile {
  const isGzipFile = representation === 'csv-gz';
  const extension = isGzipFile ? 'csv.gz' : 'csv';
  const fileName = `${environmentId}_${aggregation}_${asOf}.${extension}`;
  // The file of the current date changes at midnight without a new snapshot.
  const isSinceAsOf = lastModified !== null && isoDate(lastModified) >= asOf;
  return {
    headers: {
      'content-type': isGzipFile ? 'application/gzip' : 'text/csv; charset=utf-8; header=present',
      'content-disposition': `attachment; filename="${fileName}"`,
      'cache-control': 'private, no-cache',
      'x-total-rows': String(plan.rowCount),
      ...(isGzipFile ? {} : { vary: 'accept-encoding' }),
      ...(representation === 'csv-encoded' ? { 'content-encoding': 'gzip' } : {}),
      ...(plan.missingDates.length > 0 ? { 'x-missing-dates': plan.missingDates.join(',') } : {}),
    },
    etag: entityTag(contentHash, representation),
    lastModified,
    isDateValidator: requestedDate !== null || isSinceAsOf,
    sizeBytes,
  };
}

/** Returns the strong entity tag of a representation of a file. */
export function entityTag(contentHash: string, representation: Representation): string {
  return `"${contentHash}-${representation}"`;
}
