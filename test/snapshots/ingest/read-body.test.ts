import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { AppError } from '../../../src/shared/errors.ts';
import { type BodyOptions, readCsvBody } from '../../../src/snapshots/ingest/read-body.ts';

async function lengthOf(body: AsyncIterable<Buffer>): Promise<number> {
  let length = 0;
  for await (const chunk of body) length += chunk.length;
  return length;
}

function options(contentEncoding: string, maxBytes?: number): BodyOptions {
  return {
    contentEncoding,
    digests: [],
    minBytesPerSecond: 1,
    averageMs: 60_000,
    signal: new AbortController().signal,
    ...(maxBytes === undefined ? {} : { maxBytes }),
  };
}

t.test('refuses a plain or compressed body that exceeds the limit', async t => {
  const bomb = Buffer.alloc(8 * 1024 * 1024, 'a');
  for (const [encoding, bytes] of [
    ['gzip', gzipSync(bomb)],
    ['identity', bomb],
  ] as const) {
    const limit = 1024 * 1024;
    const body = readCsvBody(
      Readable.from([bytes], { objectMode: false }),
      options(encoding, limit),
    );
    await t.rejects(
      lengthOf(body),
      new AppError(
        'payload_too_large',
        `A snapshot may have at most ${limit} bytes after decompression.`,
      ),
    );
    const whole = readCsvBody(
      Readable.from([bytes], { objectMode: false }),
      options(encoding, bomb.length),
    );
    t.equal(await lengthOf(whole), bomb.length, encoding);
  }
});
