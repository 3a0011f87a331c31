import { randomBytes, randomInt } from 'node:crypto';
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import type { Form, Frame } from '../../src/exports/frames.ts';
import { plainBytesOf } from '../../src/exports/frames.ts';
import { createPartStore } from '../../src/exports/part-store.ts';
import { keptParts } from '../helpers/kept-parts.ts';

/** Several readers of one part in both forms, each of which may be made out of the other. */

const part = { date: '2026-01-01', snapshotDate: '2026-01-01', version: 'v1', rowCount: 1 };
const data = randomBytes(6 * 1024 * 1024);

function storeOf(t: { testdir(): string }) {
  const kept = keptParts(t.testdir());
  const events: unknown[] = [];
  const store = createPartStore({
    directory: kept.directory,
    maxBytes: 1e9,
    onError: error => events.push(error),
    onEvent: event => events.push(event),
  });
  async function* render() {
    for (let at = 0; at < data.length; at += 65_536) {
      await null;
      yield data.subarray(at, at + 65_536);
    }
  }
  const frames = (form: Form) => store.frames(part, { form, keep: true, held: null, render });
  return { kept, frames };
}

async function isWhole(
  frames: AsyncIterable<Frame>,
  form: Form,
  before: readonly Buffer[] = [],
): Promise<boolean> {
  const pieces = [...before];
  for await (const piece of plainBytesOf(frames, form)) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces).equals(data);
}

t.test(
  'who renders goes away while the other form is made out of it: nobody waits for the other',
  async t => {
    const { kept, frames } = storeOf(t);
    const first = frames('plain');
    for (let index = 0; index < 12; index += 1) await first.next();
    const packed = frames('deflated');
    const { value } = await packed.next();
    const begun: Buffer[] = [];
    async function* once(frame: Frame) {
      yield frame;
    }
    for await (const piece of plainBytesOf(once(value as Frame), 'deflated')) begun.push(piece);
    await first.return(undefined);
    // Finds the part growing in the other form, and begins to make its own out of that.
    const again = isWhole(frames('plain'), 'plain');
    await delay(50);
    t.ok(await isWhole(packed, 'deflated', begun));
    t.ok(await again);
    t.ok(await isWhole(frames('plain'), 'plain'), 'and for who comes later');
    t.strictSame(kept.unfinished(), []);
  },
);

t.test('any mix of readers, leavers and losses ends, with the right bytes', async t => {
  const { kept, frames } = storeOf(t);
  for (let round = 0; round < 12; round += 1) {
    const readers = Array.from({ length: 6 }, async () => {
      await delay(randomInt(15));
      const form = randomInt(2) === 0 ? 'plain' : 'deflated';
      const source = frames(form);
      if (randomInt(3) > 0) return await isWhole(source, form);
      for (let left = randomInt(12); left > 0 && !(await source.next()).done; left -= 1)
        await delay(1);
      await source.return(undefined);
      return true;
    });
    const [whole] = kept.whole();
    if (whole !== undefined && randomInt(2) === 0) {
      const file = `${kept.directory}/${whole}`;
      if (randomInt(2) === 0) fs.rmSync(file);
      else fs.truncateSync(file, randomInt(fs.statSync(file).size));
    }
    t.ok((await Promise.all(readers)).every(Boolean), `round ${round}`);
    if (round % 2 === 1) for (const name of kept.whole()) fs.rmSync(`${kept.directory}/${name}`);
  }
  t.strictSame(kept.unfinished(), []);
  t.strictSame(kept.openFiles(), []);
});
