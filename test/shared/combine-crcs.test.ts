import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import t from 'tap';
import { combineCrcs } from '../../src/shared/combine-crcs.ts';

t.test('combines the checksums of two byte ranges', async t => {
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
    const joined = crc32(Buffer.concat([left, right]));
    t.equal(combineCrcs(crc32(left), crc32(right), second), joined, `${first}, ${second}`);
  }
});
