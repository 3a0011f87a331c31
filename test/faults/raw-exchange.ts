import net from 'node:net';

/** An HTTP answer parsed by hand. A client library would repair or hide malformed parts. */
export interface RawAnswer {
  readonly status: number;
  /** Header values by lower-case name. The last value wins. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

export interface Exchange {
  readonly answers: readonly RawAnswer[];
  /** `end`, or the code of the error that ended the connection. */
  readonly closed: string;
}

interface ExchangeOptions {
  /**
   * Ends the sending side after the last piece, as an aborted caller does. The service must then
   * close the connection, but need not answer.
   */
  readonly halfClose?: boolean;
  /** Methods of the requests, in order. Answers to HEAD have a length but no body. */
  readonly methods?: readonly string[];
}

/** Time limit in ms, which only guards against hanging. */
const limitMs = 60_000;

/**
 * Writes pieces to a new connection and reads all answers until the service closes it.
 * @throws if the service does not close the connection in time or does not send well-formed HTTP
 */
export async function exchange(
  port: number,
  pieces: readonly (string | Buffer)[],
  { halfClose = false, methods = [] }: ExchangeOptions = {},
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
    // Sends each piece in a separate segment if the kernel allows it.
    if (pieces.length > 1) await new Promise(resolve => setImmediate(resolve));
  }
  if (halfClose) socket.end();
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    socket.destroy();
  }, limitMs);
  await done;
  clearTimeout(timer);
  const received = Buffer.concat(chunks);
  if (timedOut) {
    throw new Error(
      `connection not closed within ${limitMs} ms, after ${JSON.stringify(received.toString().slice(0, 300))}`,
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
      throw new Error(`unterminated headers: ${JSON.stringify(bytes.toString('latin1', at))}`);
    const [statusLine = '', ...lines] = bytes.toString('latin1', at, headEnd).split('\r\n');
    const [, statusText] = /^HTTP\/1\.1 (\d{3}) [^\r\n]+$/.exec(statusLine) ?? [];
    if (statusText === undefined)
      throw new Error(`invalid status line: ${JSON.stringify(statusLine)}`);
    const status = Number(statusText);
    const headers: Record<string, string> = {};
    for (const line of lines) {
      const [, name, value] = /^([!#$%&'*+.^_`|~\w-]+): ?([^\0\r\n]*)$/.exec(line) ?? [];
      if (name === undefined || value === undefined)
        throw new Error(`invalid header: ${JSON.stringify(line)}`);
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
    throw new Error(`body too short: expected ${length} bytes, read ${bytes.length - start}`);
  return [bytes.subarray(start, end), end];
}

function parseChunks(bytes: Buffer, start: number): [Buffer, number] {
  const pieces: Buffer[] = [];
  let at = start;
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at);
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16);
    if (lineEnd === -1 || Number.isNaN(size)) throw new Error('incomplete chunked body');
    const from = lineEnd + 2;
    pieces.push(bytes.subarray(from, from + size));
    at = from + size + 2;
    if (at > bytes.length) throw new Error('incomplete chunk');
    if (size === 0) return [Buffer.concat(pieces), at];
  }
}
