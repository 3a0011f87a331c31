import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { crc32, gunzipSync } from 'node:zlib';
import t from 'tap';
import { type Block, bytesOf, cutBlocks, pack } from '../../src/exports/blocks.ts';
import { combineCrcs } from '../../src/exports/gzip-stream.ts';

async function collect(bytes: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of bytes) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function* inChunks(text: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < text.length; at += size) yield text.subarray(at, at + size);
}

async function* packedBlocks(text: Buffer): AsyncGenerator<Block> {
  for await (const block of cutBlocks(inChunks(text, 65_536))) yield { ...(await pack(block)), plain: null };
}

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

t.test('blocks packed apart make one gzip member that other programs read', async t => {
  for (const length of [0, 1, 262_143, 262_144, 262_145, 3_000_000]) {
    const text = Buffer.from(
      randomBytes(length / 2 + 1)
        .toString('hex')
        .slice(0, length),
    );
    const packed = await collect(bytesOf(packedBlocks(text), 'gzip'));
    t.ok(
      execFileSync('gzip', ['-dc'], { input: packed, maxBuffer: 2 ** 26 }).equals(text),
      `gzip, ${length}`,
    );
    // Whoever reads one member alone has it all: nothing follows it.
    t.equal(
      (gunzipSync(packed, { info: true } as object) as unknown as { engine: { bytesWritten: number } }).engine
        .bytesWritten,
      packed.length,
    );
    t.ok((await collect(bytesOf(packedBlocks(text), 'none'))).equals(text), `plain, ${length}`);
    const again = await collect(bytesOf(cutBlocks(inChunks(text, 1_000)), 'gzip'));
    t.ok(again.equals(packed), 'the same bytes, however the chunks fall');
  }
});

t.test('a file that is cut anywhere does not unpack', async t => {
  const packed = await collect(bytesOf(packedBlocks(Buffer.alloc(600_000, 'company,feature\n')), 'gzip'));
  for (let length = 0; length < packed.length; length += 1) {
    try {
      gunzipSync(packed.subarray(0, length));
      t.fail(`unpacks with ${length} of ${packed.length} bytes`);
    } catch {
      // As it should be.
    }
  }
  t.equal(gunzipSync(packed).length, 600_000);
});
