/**
 * Reads an answer and throws it away, as cheaply as Node can; prints `{seconds, bytes}`.
 *   node bench/read-url.ts <url> [identity|gzip] [bytes per second]     with the bearer token in TOKEN
 */
import net from 'node:net';

const [target = '', encoding = 'identity', pace] = process.argv.slice(2);
const url = new URL(target);
const bytesPerSecond = pace === undefined ? Number.POSITIVE_INFINITY : Number(pace);

const startedAt = performance.now();
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
      const early = (bytes / bytesPerSecond) * 1000 - (performance.now() - startedAt);
      if (early > 0) setTimeout(() => socket.resume(), early);
      return early <= 0;
    },
  },
});
socket.write(
  `GET ${url.pathname}${url.search} HTTP/1.1\r\nHost: ${url.host}\r\nConnection: close\r\n` +
    `Accept-Encoding: ${encoding}\r\nAuthorization: Bearer ${process.env['TOKEN'] ?? ''}\r\n\r\n`,
);
socket.once('close', () => {
  const isWhole =
    head.startsWith('HTTP/1.1 200 ') && (tail.equals(lastChunk) || /content-length/i.test(head));
  if (!isWhole) throw new Error(`not a whole file: ${head.slice(0, 300)}`);
  console.log(JSON.stringify({ seconds: (performance.now() - startedAt) / 1000, bytes }));
});
const lastChunk = Buffer.from('0\r\n\r\n'.slice(-5));
