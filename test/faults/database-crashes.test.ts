import t from 'tap';
import { needsS3 } from '../helpers/s3.ts';
import { crashDatabase, cutConnections, failOver, killBackend } from '../soak/inject-faults.ts';
import { underFaults } from '../soak/under-faults.ts';
import { scaled } from './scale.ts';

/** The database goes away under loads, downloads, config changes and runs. What callers were told is there stays there. */

t.setTimeout(1_800_000);

t.test('Postgres crashes and recovers', needsS3, async t => {
  const world = await underFaults(t, scaled(12, 4), [
    [2, crashDatabase],
    [1, killBackend],
  ]);
  t.ok(world.counts.unavailable > 0, 'callers were told to come again');
});

t.test('another server takes over, and takes no writes for a while', needsS3, async t => {
  const world = await underFaults(t, scaled(12, 3), [
    [2, failOver],
    [1, cutConnections],
  ]);
  t.ok(world.counts.unavailable > 0, 'callers were told to come again');
});
