import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { openStreamedBody } from '../../src/http/streamed-body.ts';
import { AppError } from '../../src/shared/errors.ts';

/** Reads a body by its headers. Only the headers and the stream of the request matter. */
async function lengthOf(sent: Buffer, encoding: string, maxBytes: number): Promise<number> {
  const request = Object.assign(Readable.from([sent], { objectMode: false }), {
    headers: { 'content-type': 'text/csv', 'content-encoding': encoding },
    complete: true,
  });
  const body = openStreamedBody(request as unknown as IncomingMessage, {
    minBytesPerSecond: 1,
    averageMs: 60_000,
    maxMs: 60_000,
    maxBytes,
    names: { request: 'An ingest', body: 'A snapshot' },
  });
  let length = 0;
  try {
    for await (const piece of body.pieces) length += piece.length;
  } finally {
    body.close();
  }
  return length;
}

t.test('refuses a plain or compressed body that exceeds the limit', async t => {
  const bomb = Buffer.alloc(8 * 1024 * 1024, 'a');
  for (const [encoding, bytes] of [
    ['gzip', gzipSync(bomb)],
    ['identity', bomb],
  ] as const) {
    const limit = 1024 * 1024;
    await t.rejects(
      lengthOf(bytes, encoding, limit),
      new AppError(
        'payload_too_large',
        `A snapshot may have at most ${limit} bytes after decompression.`,
      ),
    );
    t.equal(await lengthOf(bytes, encoding, bomb.length), bomb.length, encoding);
  }
});
