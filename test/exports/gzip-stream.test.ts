import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { crc32, gunzipSync } from 'node:zlib';
import t from 'tap';
import { type Frame, framesOf, plainBytesOf } from '../../src/exports/frames.ts';
import { combineCrcs, gzipStream } from '../../src/exports/gzip-stream.ts';

async function collect(bytes: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  // Each is lent.
  for await (const piece of bytes) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}

async function* inChunks(text: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < text.length; at += size) yield text.subarray(at, at + size);
}

const deflated = (text: Buffer, chunkBytes = 65_536): AsyncGenerator<Frame> =>
  framesOf(inChunks(text, chunkBytes), 'deflated');

t.test('the checksum of two texts follows from those of each', async t => {
  for (const [first, second] of [
    [0, 0],
    [0, 5],
    [5, 0],
    [1, 1],
    [1000, 262_144],
    [262_144, 262_143],
    [3, 1_000_003],
  ] as const) {
    const [left, right] = [randomBytes(first), randomBytes(second)];
    t.equal(
      combineCrcs(crc32(left), crc32(right), second),
      crc32(Buffer.concat([left, right])),
      `${first}, ${second}`,
    );
  }
});

t.test('frames packed apart make one gzip member that other programs read', async t => {
  for (const length of [0, 1, 262_144, 1_048_575, 1_048_576, 1_048_577, 5_000_000]) {
    const text = Buffer.from(
      randomBytes(length / 2 + 1)
        .toString('hex')
        .slice(0, length),
    );
    const packed = await collect(gzipStream(deflated(text)));
    t.ok(
      execFileSync('gzip', ['-dc'], { input: packed, maxBuffer: 2 ** 26 }).equals(text),
      `gzip, ${length}`,
    );
    // Whoever reads one member alone has it all: nothing follows it.
    t.equal(
      (
        gunzipSync(packed, { info: true } as object) as unknown as {
          engine: { bytesWritten: number };
        }
      ).engine.bytesWritten,
      packed.length,
    );
    const unpacked = plainBytesOf(deflated(text), 'deflated');
    t.ok((await collect(unpacked)).equals(text), `plain again, ${length}`);
    const again = await collect(gzipStream(deflated(text, 1_000)));
    t.ok(again.equals(packed), 'the same bytes, however the chunks fall');
  }
});

t.test('a file that is cut anywhere does not unpack', async t => {
  // Two frames.
  const packed = await collect(gzipStream(deflated(Buffer.alloc(1_100_000, 'company,feature\n'))));
  for (let length = 0; length < packed.length; length += 1) {
    try {
      gunzipSync(packed.subarray(0, length));
      t.fail(`unpacks with ${length} of ${packed.length} bytes`);
    } catch {
      // As it should be.
    }
  }
  t.equal(gunzipSync(packed).length, 1_100_000);
});
