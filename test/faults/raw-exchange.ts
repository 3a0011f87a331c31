import net from 'node:net';

/** An answer as it came, taken apart by hand: an HTTP client from a package would repair or hide what is odd. */
export interface RawAnswer {
  readonly status: number;
  /** Names in lower case; of several of one name, the last. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

export interface Exchange {
  readonly answers: readonly RawAnswer[];
  /** `end`, or the code of the error that the connection ended with. */
  readonly closed: string;
}

interface ExchangeOptions {
  /** Say that no more will come, as a caller who breaks off does. The service then owes an end, not an answer. */
  readonly halfClose?: boolean;
  /** Methods of the requests sent, for those whose answer has no body though its headers tell of one. */
  readonly methods?: readonly string[];
  readonly patienceMs?: number;
}

/**
 * Writes pieces to a new connection and reads all that comes until the other side closes.
 * @throws when it does not close in time, or when what came is not well-formed HTTP
 */
export async function exchange(
  port: number,
  pieces: readonly (string | Buffer)[],
  { halfClose = false, methods = [], patienceMs = 20_000 }: ExchangeOptions = {},
): Promise<Exchange> {
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
  const chunks: Buffer[] = [];
  let closed = 'end';
  socket.on('data', chunk => chunks.push(chunk));
  socket.on('end', () => socket.end());
  socket.on('error', (error: NodeJS.ErrnoException) => {
    closed = error.code ?? error.message;
  });
  const done = new Promise<void>(resolve => socket.once('close', () => resolve()));
  for (const piece of pieces) {
    socket.write(typeof piece === 'string' ? Buffer.from(piece, 'utf8') : piece);
    // Each in a segment of its own, as far as that is ours to say.
    if (pieces.length > 1) await new Promise(resolve => setImmediate(resolve));
  }
  if (halfClose) socket.end();
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    socket.destroy();
  }, patienceMs);
  await done;
  clearTimeout(timer);
  const received = Buffer.concat(chunks);
  if (timedOut) {
    throw new Error(
      `no end within ${patienceMs} ms, after ${JSON.stringify(received.toString().slice(0, 300))}`,
    );
  }
  return { answers: parseAnswers(received, methods), closed };
}

function parseAnswers(bytes: Buffer, methods: readonly string[]): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let at = 0;
  while (at < bytes.length) {
    const headEnd = bytes.indexOf('\r\n\r\n', at);
    if (headEnd === -1)
      throw new Error(`headers without an end: ${JSON.stringify(bytes.toString('latin1', at))}`);
    const [statusLine = '', ...lines] = bytes.toString('latin1', at, headEnd).split('\r\n');
    const [, statusText] = /^HTTP\/1\.1 (\d{3}) [^\r\n]+$/.exec(statusLine) ?? [];
    if (statusText === undefined)
      throw new Error(`not a status line: ${JSON.stringify(statusLine)}`);
    const status = Number(statusText);
    const headers: Record<string, string> = {};
    for (const line of lines) {
      const [, name, value] = /^([!#$%&'*+.^_`|~\w-]+): ?([^\0\r\n]*)$/.exec(line) ?? [];
      if (name === undefined || value === undefined)
        throw new Error(`not a header: ${JSON.stringify(line)}`);
      headers[name.toLowerCase()] = value;
    }
    at = headEnd + 4;
    if (status === 100) continue;
    const [body, next] = parseBody(bytes, at, status, headers, methods[answers.length]);
    answers.push({ status, headers, body });
    at = next;
  }
  return answers;
}

function parseBody(
  bytes: Buffer,
  start: number,
  status: number,
  headers: Readonly<Record<string, string>>,
  method: string | undefined,
): [Buffer, number] {
  if (method === 'HEAD' || status === 204 || status === 304) return [Buffer.alloc(0), start];
  if (headers['transfer-encoding'] === 'chunked') return parseChunks(bytes, start);
  const length = headers['content-length'];
  if (length === undefined) return [bytes.subarray(start), bytes.length];
  const end = start + Number(length);
  if (end > bytes.length)
    throw new Error(`a body of ${bytes.length - start} bytes where ${length} are promised`);
  return [bytes.subarray(start, end), end];
}

function parseChunks(bytes: Buffer, start: number): [Buffer, number] {
  const pieces: Buffer[] = [];
  let at = start;
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at);
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16);
    if (lineEnd === -1 || Number.isNaN(size)) throw new Error('a chunked body that breaks off');
    const from = lineEnd + 2;
    pieces.push(bytes.subarray(from, from + size));
    at = from + size + 2;
    if (at > bytes.length) throw new Error('a chunk that breaks off');
    if (size === 0) return [Buffer.concat(pieces), at];
  }
}
