import { type Aggregation, shownDates } from './aggregations.ts';
import { type Compression, describeExport, type ExportSource, openExport } from './open-export.ts';
import type { ExportPlan } from './plan-export.ts';

export interface WantedFile {
  readonly environmentId: string;
  readonly aggregation: Aggregation;
  /** The current UTC date, `YYYY-MM-DD`. */
  readonly today: string;
  /** Plain, packed for the way only, or as a gzip file. */
  readonly packing: 'none' | 'content-encoding' | 'gzip-file';
}

/** A file that can be described, and opened to be sent. */
export interface ExportDownload {
  describe(): Promise<Record<string, string>>;
  open(
    signal: AbortSignal,
  ): Promise<{ headers: Record<string, string>; bytes: AsyncIterable<Buffer>; rowCount: number }>;
}

/** One of the four exports as a file, with the headers that go with it. */
export function exportDownload(source: ExportSource, wanted: WantedFile): ExportDownload {
  const dates = shownDates(wanted.aggregation, wanted.today);
  const compression: Compression = wanted.packing === 'none' ? 'none' : 'gzip';
  return {
    async describe() {
      const { plan } = await describeExport(source, wanted.environmentId, dates, compression);
      return headersOf(plan, wanted);
    },
    async open(signal) {
      const options = { compression, signal };
      const opened = await openExport(source, wanted.environmentId, dates, options);
      return {
        headers: headersOf(opened.plan, wanted),
        bytes: opened.bytes(),
        rowCount: opened.plan.rowCount,
      };
    },
  };
}

function headersOf(plan: ExportPlan, wanted: WantedFile): Record<string, string> {
  const isGzipFile = wanted.packing === 'gzip-file';
  const fileName = `${wanted.environmentId}_${wanted.aggregation}_${wanted.today}.csv${isGzipFile ? '.gz' : ''}`;
  return {
    'content-type': isGzipFile ? 'application/gzip' : 'text/csv; charset=utf-8; header=present',
    'content-disposition': `attachment; filename="${fileName}"`,
    'cache-control': 'private, no-store',
    'x-total-rows': String(plan.rowCount),
    ...(isGzipFile ? {} : { vary: 'accept-encoding' }),
    ...(wanted.packing === 'content-encoding' ? { 'content-encoding': 'gzip' } : {}),
    ...(plan.missingDates.length > 0 ? { 'x-missing-dates': plan.missingDates.join(',') } : {}),
  };
}
