import net from 'node:net';

const lastChunk = Buffer.from('0\r\n\r\n');

/**
 * Reads an answer and discards it with as little work as Node can. The variable TOKEN has the
 * bearer token.
 *
 * @throws if the answer is not a complete 200
 */
export async function readAnswer(
  target: string,
  encoding = 'identity',
  bytesPerSecond = Number.POSITIVE_INFINITY,
): Promise<{ seconds: number; bytes: number }> {
  const url = new URL(target);
  const startedAt = performance.now();
  const seconds = () => (performance.now() - startedAt) / 1000;
  let bytes = 0;
  let head = '';
  let tail = Buffer.alloc(0);
  const buffer = Buffer.allocUnsafe(256 * 1024);
  const socket = net.connect({
    host: url.hostname,
    port: Number(url.port),
    onread: {
      buffer,
      callback(count) {
        if (head.length < 200) head += buffer.toString('latin1', 0, Math.min(count, 2_000));
        bytes += count;
        tail = Buffer.concat([tail, buffer.subarray(Math.max(0, count - 5), count)]).subarray(-5);
        const early = bytes / bytesPerSecond - seconds();
        if (early > 0) setTimeout(() => socket.resume(), early * 1000);
        return early <= 0;
      },
    },
  });
  socket.write(
    `GET ${url.pathname}${url.search} HTTP/1.1\r\nHost: ${url.host}\r\nConnection: close\r\n` +
      `Accept-Encoding: ${encoding}\r\nAuthorization: Bearer ${process.env['TOKEN'] ?? ''}\r\n\r\n`,
  );
  return await new Promise((resolve, reject) => {
    socket.once('error', reject).once('close', () => {
      const isWhole =
        head.startsWith('HTTP/1.1 200 ') &&
        (tail.equals(lastChunk) || /content-length/i.test(head));
      if (isWhole) resolve({ seconds: seconds(), bytes });
      else reject(new Error(`not a complete file: ${head.slice(0, 300)}`));
    });
  });
}
