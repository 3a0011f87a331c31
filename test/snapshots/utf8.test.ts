import { isUtf8 } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { createUtf8Check } from '../../src/snapshots/utf8.ts';

/** Offset of the first fault in the whole text, or null; `cut` where only its end is missing. */
function check(chunks: readonly Buffer[]): number | 'cut' | null {
  const utf8 = createUtf8Check();
  let before = 0;
  for (const chunk of chunks) {
    const at = utf8.check(chunk);
    if (at !== null) return before + at;
    before += chunk.length;
  }
  return utf8.isComplete() ? null : 'cut';
}

function splitAt(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const ends = [...cuts.map(cut => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return ends.map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
}

const whole = 'aé€😀\u0000\u{10ffff}\ud7ff\ue000';
const bad = [
  [0x80],
  [0xbf],
  [0xc0, 0x80],
  [0xc1, 0xbf],
  [0xc3, 0x28],
  [0xe0, 0x80, 0x80],
  [0xe0, 0x9f, 0xbf],
  [0xed, 0xa0, 0x80],
  [0xe2, 0x82, 0x28],
  [0xf0, 0x80, 0x80, 0x80],
  [0xf4, 0x90, 0x80, 0x80],
  [0xf5, 0x80, 0x80, 0x80],
  [0xf8, 0x88, 0x80, 0x80],
  [0xfe],
  [0xff],
];

t.test('well-formed text in single bytes and in every two pieces', async t => {
  const bytes = Buffer.from(whole);
  t.equal(check([...bytes].map(byte => Buffer.from([byte]))), null);
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    t.equal(check([bytes.subarray(0, cut), bytes.subarray(cut)]), null, `cut at ${cut}`);
  }
});

t.test('a character whose end never comes', async t => {
  for (const character of ['é', '€', '😀']) {
    const bytes = Buffer.from(character);
    for (let length = 1; length < bytes.length; length += 1) {
      t.equal(check([Buffer.from('ab'), bytes.subarray(0, length)]), 'cut', `${character} after ${length}`);
    }
  }
});

for (const sequence of bad) {
  t.test(`${Buffer.from(sequence).toString('hex')} at a chunk's beginning, end and across`, async t => {
    const bytes = Buffer.concat([Buffer.from('a,é'), Buffer.from(sequence), Buffer.from('b\n')]);
    const start = 4;
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const at = check([bytes.subarray(0, cut), bytes.subarray(cut)]);
      t.ok(typeof at === 'number' && at >= start && at < start + sequence.length, `cut at ${cut}: at ${at}`);
    }
  });
}

t.test('agrees with TextDecoder and isUtf8 on random bytes in random pieces', async () => {
  // Bytes that make near misses likely.
  const byte = fc.oneof(
    fc.constantFrom(0x00, 0x22, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0),
    fc.constantFrom(0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff),
    fc.integer({ min: 0, max: 255 }),
  );
  const text = fc.oneof(
    fc.array(byte, { maxLength: 12 }).map(bytes => Buffer.from(bytes)),
    fc.string({ unit: 'binary', maxLength: 20 }).map(string => Buffer.from(string)),
  );
  fc.assert(
    fc.property(text, fc.array(fc.nat(), { maxLength: 5 }), (bytes, cuts) => {
      const found = check(splitAt(bytes, cuts));
      let decodes = true;
      try {
        new TextDecoder('utf-8', { fatal: true }).decode(bytes);
      } catch {
        decodes = false;
      }
      if (decodes !== isUtf8(bytes)) throw new Error('the references disagree');
      if ((found === null) !== decodes) throw new Error(`${bytes.toString('hex')}: ${found}`);
      // Nothing before the place is at fault.
      if (typeof found === 'number' && !isUtf8(bytes.subarray(0, found)) && found > 0) {
        const upTo = bytes.subarray(0, found);
        if (check([upTo]) !== 'cut' && check([upTo]) !== null) throw new Error(`${found} is too late`);
      }
    }),
    { numRuns: 20_000 },
  );
});
