import type { Duplex } from 'node:stream';
import type { Connection, PoolClient } from 'pg';

/** Messages of the wire protocol: https://www.postgresql.org/docs/current/protocol-message-formats.html */
const headBytes = 5;
const copyData = 0x64;
/** CopyOutResponse, and what may come at any time: ParameterStatus, NoticeResponse, NotificationResponse. */
const passedOver: ReadonlySet<number> = new Set([0x48, 0x53, 0x4e, 0x41]);

export interface Copy {
  /** What COPY writes, in pieces as they come; the next is asked for only when the one before was taken. */
  readonly bytes: AsyncGenerator<Buffer>;
  /** As Postgres counts them, once the bytes have ended. */
  readonly rowCount: number;
}

/**
 * Carries out a `copy … to stdout`. Like pg-copy-streams it reads the connection itself while the copy lasts, but moves
 * rows together within the buffers that the socket brought, where that library makes two more of every byte: garbage
 * that V8 is slow to collect (docs/performance.md).
 */
export function copyOut(client: PoolClient, text: string): Copy {
  const pieces: Buffer[] = [];
  let stream: Duplex | null = null;
  let rowCount = 0;
  let end: { readonly error: Error | null } | null = null;
  let wake = () => {};
  const finish = (error: Error | null) => {
    end ??= { error };
    wake();
  };

  async function* read(): AsyncGenerator<Buffer> {
    for (;;) {
      const piece = pieces.shift();
      if (piece !== undefined) yield piece;
      else if (end?.error) throw end.error;
      else if (end !== null) return;
      else {
        const more = new Promise<void>(resolve => {
          wake = resolve;
        });
        stream?.resume();
        await more;
      }
    }
  }

  client.query({
    text,
    submit(connection: Connection) {
      stream = connection.stream;
      takeOver(stream, piece => {
        pieces.push(piece);
        stream?.pause();
        wake();
      });
      (connection as unknown as { query(sql: string): void }).query(text);
    },
    handleCommandComplete(message: { text?: string }) {
      rowCount = Number(/^COPY (\d+)$/.exec(message.text ?? '')?.[1]);
    },
    handleReadyForQuery: () => finish(null),
    handleError: finish,
  });
  return {
    bytes: read(),
    get rowCount() {
      return rowCount;
    },
  };
}

/** Reads in place of pg until the copy ends, well or not; what comes then is pg's again. */
function takeOver(stream: Duplex, onBytes: (bytes: Buffer) => void): void {
  const [pgReads] = stream.listeners('data') as ((chunk: Buffer) => void)[];
  if (pgReads === undefined || stream.listenerCount('data') > 1)
    throw new Error('pg reads in another way.');
  const unwrap = createUnwrap();
  const onData = (chunk: Buffer) => {
    const { bytes, rest } = unwrap(chunk);
    if (bytes.length > 0) onBytes(bytes);
    if (rest === null) return;
    stream.off('data', onData);
    stream.on('data', pgReads);
    stream.resume();
    pgReads(rest);
  };
  stream.off('data', pgReads);
  stream.on('data', onData);
}

/**
 * Takes rows out of their messages, wherever the chunks' bounds are. The rows of a chunk stand together in it
 * afterwards. `rest` is from the first message on that is no longer about rows.
 */
function createUnwrap(): (chunk: Buffer) => { bytes: Buffer; rest: Buffer | null } {
  /** Of a head that came in pieces. */
  let head = Buffer.alloc(0);
  /** Of the message under way. */
  let left = 0;
  let isRow = false;

  return chunk => {
    let filled = 0;
    let at = 0;
    while (at < chunk.length) {
      if (left > 0) {
        const end = Math.min(at + left, chunk.length);
        if (isRow) {
          chunk.copyWithin(filled, at, end);
          filled += end - at;
        }
        left -= end - at;
        at = end;
        continue;
      }
      const start = at;
      let [source, code] = [chunk, at];
      if (head.length > 0 || chunk.length - at < headBytes) {
        const missing = headBytes - head.length;
        head = Buffer.concat([head, chunk.subarray(at, at + missing)]);
        if (head.length < headBytes) break;
        [source, code] = [head, 0];
        at += missing;
      } else at += headBytes;
      isRow = source[code] === copyData;
      if (!isRow && !passedOver.has(source[code] ?? 0)) {
        const rest =
          source === chunk ? chunk.subarray(start) : Buffer.concat([head, chunk.subarray(at)]);
        return { bytes: chunk.subarray(0, filled), rest };
      }
      left = source.readUInt32BE(code + 1) - 4;
      head = Buffer.alloc(0);
    }
    return { bytes: chunk.subarray(0, filled), rest: null };
  };
}
