import { createCsvRowCounter, createGzipRowCounter, type RowCounter } from './count-rows.ts';
import { delay } from './delay.ts';
import { ApiError, clientError } from './errors.ts';
import { fillPath } from './fill-path.ts';
import type { Aggregation } from './generated/types.gen.ts';
import { retryWhenBusy } from './retry-when-busy.ts';
import type { Transport } from './transport.ts';

export interface DownloadExportOptions {
  readonly environmentId: string;
  readonly aggregation: Aggregation;
  /** Default `csv`. `csv.gz` is the fastest. The rows of `parquet` are not counted. */
  readonly format?: 'csv' | 'csv.gz' | 'parquet';
  /** UTC day on which the file is based, `YYYY-MM-DD`. Default: today. */
  readonly asOf?: string;
  /** Bytes of an earlier download of the same file. */
  readonly resume?: { readonly etag: string; readonly receivedBytes: number };
  /** Connections in a row that may break without a byte. Default 5. */
  readonly attempts?: number;
  readonly signal?: AbortSignal;
  /** Called after each chunk. */
  readonly onProgress?: (progress: DownloadProgress) => void;
}

export interface DownloadProgress {
  /** Bytes so far, those of the earlier download included. */
  readonly receivedBytes: number;
  /** Length of the file. Null while the service does not know it. */
  readonly totalBytes: number | null;
}

export interface ExportDownload {
  /** Name that the service proposes. */
  readonly fileName: string;
  /** Strong entity tag, for `resume`. */
  readonly etag: string;
  /** Rows of the whole file, without the header line. */
  readonly rowCount: number;
  /** Dates without a snapshot. */
  readonly missingDates: readonly string[];
  /** Length of the file. Null while the service does not know it. */
  readonly totalBytes: number | null;
  /**
   * Position of the first byte of `body` in the file. If it is 0, discard the earlier bytes: the
   * file has changed or cannot be continued. It is the length of a file that was complete.
   */
  readonly startsAt: number;
  /**
   * Bytes of the file. The stream ends only if length and row count are correct, else it fails with
   * `ApiError`. A resumed download verifies the length only.
   */
  readonly body: ReadableStream<Uint8Array<ArrayBuffer>>;
}

/**
 * Opens an export. Continues after a broken connection at the byte that is missing.
 *
 * @throws {ApiError} if the download cannot start
 */
export async function downloadExport(
  transport: Transport,
  options: DownloadExportOptions,
): Promise<ExportDownload> {
  const { attempts = 5, resume, onProgress } = options;
  const cancel = new AbortController();
  const signal = AbortSignal.any([cancel.signal, ...(options.signal ? [options.signal] : [])]);
  const open = (from: number, etag: string | null) =>
    retryWhenBusy(() => openFile(transport, { ...options, signal }, from, etag), {
      attempts,
      signal,
    });
  const first = resume ? await openRest(open, resume) : await open(0, null);
  const { reader: _, ...file } = first;
  const reopen = async (from: number) => {
    const next = await openRest(open, { etag: file.etag, receivedBytes: from });
    if (next.etag === file.etag) return next;
    await next.reader.cancel();
    throw clientError('export_changed', 'The file was replaced during the download');
  };
  const chunks = readVerified(file, options, readAll(first, { attempts, signal, reopen }));
  let receivedBytes = file.startsAt;
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      async pull(controller) {
        const { done, value } = await chunks.next();
        if (done) return controller.close();
        controller.enqueue(value);
        receivedBytes += value.length;
        onProgress?.({ receivedBytes, totalBytes: file.totalBytes });
      },
      async cancel(reason) {
        cancel.abort(reason);
        await chunks.return();
      },
    },
    { highWaterMark: 0 },
  );
  return { ...file, body };
}

type OpenedFile = Omit<ExportDownload, 'body'> & { readonly reader: Reader };
type Reader = ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
type Open = (from: number, etag: string) => Promise<OpenedFile>;
type Chunks = AsyncGenerator<Uint8Array<ArrayBuffer>, void, void>;

/** Opens the rest of a file. The rest of a complete file is empty. */
async function openRest(
  open: Open,
  { etag, receivedBytes }: NonNullable<DownloadExportOptions['resume']>,
): Promise<OpenedFile> {
  try {
    return await open(receivedBytes, etag);
  } catch (error) {
    const isBeyondEnd = error instanceof ApiError && error.problem.code === 'range_not_satisfiable';
    if (!isBeyondEnd || receivedBytes === 0) throw error;
    // The error lacks the headers of the file. The last byte has them, and it is refused as well if
    // the earlier download has more bytes than the file.
    const last = await open(receivedBytes - 1, etag);
    if (last.startsAt === 0) return last;
    await last.reader.cancel();
    return { ...last, startsAt: receivedBytes, reader: new Blob([]).stream().getReader() };
  }
}

async function openFile(
  transport: Transport,
  { environmentId, aggregation, format = 'csv', asOf, signal }: DownloadExportOptions,
  from: number,
  etag: string | null,
): Promise<OpenedFile> {
  const answer = await transport.send(
    fillPath('/v1/environments/{environmentId}/exports/{aggregation}.{format}', {
      ...{ environmentId, aggregation, format },
    }),
    {
      method: 'GET',
      query: { asOf },
      // With a range, fetch requests bytes that no proxy compresses. Positions of compressed bytes
      // are unknown, so a download without a range could not be resumed.
      headers: { range: `bytes=${from}-`, ...(etag !== null && { 'if-range': etag }) },
      signal,
    },
  );
  const { headers } = answer;
  const isEncoded = (headers.get('content-encoding') ?? 'identity') !== 'identity';
  const range = /^bytes (\d+)-\d+\/(\d+)$/.exec(headers.get('content-range') ?? '');
  const length = range?.[2] ?? (isEncoded ? null : headers.get('content-length'));
  return {
    fileName: /filename="([^"]*)"/.exec(headers.get('content-disposition') ?? '')?.[1] ?? 'export',
    etag: headers.get('etag') ?? '',
    rowCount: Number(headers.get('x-total-rows') ?? Number.NaN),
    missingDates: headers.get('x-missing-dates')?.split(',') ?? [],
    totalBytes: length === null ? null : Number(length),
    startsAt: Number(range?.[1] ?? 0),
    reader: (answer.body ?? new Blob([]).stream()).getReader(),
  };
}

interface ReadOptions {
  readonly attempts: number;
  readonly signal: AbortSignal;
  /** Opens the same file at the position or before it. */
  readonly reopen: (from: number) => Promise<OpenedFile>;
}

/** Yields the whole file. Opens a new connection after each break. */
async function* readAll(first: OpenedFile, { attempts, signal, reopen }: ReadOptions): Chunks {
  const { startsAt, totalBytes } = first;
  let file: OpenedFile | null = first;
  let received = startsAt;
  let breaks = 0;
  for (;;) {
    try {
      file ??= await reopen(received);
      let position = file.startsAt;
      for (;;) {
        const { done, value } = await file.reader.read();
        if (done) break;
        // Without ranges the service sends the same bytes from the start.
        const fresh = value.subarray(Math.max(0, received - position));
        position += value.length;
        if (fresh.length === 0) continue;
        breaks = 0;
        received += fresh.length;
        yield fresh;
      }
      if (totalBytes === null || received >= totalBytes) return;
      throw new Error(`The answer ended after ${received} of ${totalBytes} bytes`);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof ApiError) throw error;
      file = null;
      breaks++;
      if (breaks >= attempts) {
        const detail = `The download broke ${breaks} times in a row after ${received} bytes`;
        throw clientError('incomplete_download', detail, { cause: error });
      }
    }
    // The first new connection is opened at once: most connections break by chance.
    if (breaks > 1) await delay(1000 * 2 ** (breaks - 2), signal);
  }
}

/** Passes the chunks on and compares length and row count at the end. */
async function* readVerified(
  { startsAt, totalBytes, rowCount }: Omit<ExportDownload, 'body'>,
  { format }: DownloadExportOptions,
  chunks: Chunks,
): Chunks {
  const counter = startsAt > 0 ? null : createRowCounter(format);
  let received = startsAt;
  try {
    for await (const chunk of chunks) {
      received += chunk.length;
      await counter?.add(chunk).catch(throwDamaged);
      yield chunk;
    }
    if (totalBytes !== null && received !== totalBytes) {
      throw clientError('incomplete_download', `Expected ${totalBytes} bytes, got ${received}`);
    }
    const rows = await counter?.finish().catch(throwDamaged);
    if (rows !== undefined && rows !== rowCount) {
      throw clientError('incomplete_download', `Expected ${rowCount} rows, got ${rows}`);
    }
  } finally {
    counter?.cancel();
  }
}

function createRowCounter(format: DownloadExportOptions['format']): RowCounter | null {
  if (format === 'parquet') return null;
  return format === 'csv.gz' ? createGzipRowCounter() : createCsvRowCounter();
}

function throwDamaged(cause: unknown): never {
  throw clientError('incomplete_download', 'The file is not valid gzip', { cause });
}
