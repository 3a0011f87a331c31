import t from 'tap';
import { needsS3 } from '../helpers/s3.ts';
import { scaled } from '../helpers/scale.ts';
import { crashDatabase, cutConnections, failOver, killBackend } from '../soak/inject-faults.ts';
import { underFaults } from '../soak/under-faults.ts';

/**
 * Outages of the database during ingests, downloads, config changes and runs. Confirmed changes
 * must survive.
 */

t.setTimeout(1_800_000);

t.test('loses and corrupts nothing when Postgres crashes and recovers', needsS3, async t => {
  const world = await underFaults(t, scaled(12, 4), [
    [2, crashDatabase],
    [1, killBackend],
  ]);
  t.ok(world.counts.unavailable > 0, 'some requests were answered 503');
});

t.test('loses and corrupts nothing during a failover with a read-only phase', needsS3, async t => {
  const world = await underFaults(t, scaled(12, 3), [
    [2, failOver],
    [1, cutConnections],
  ]);
  t.ok(world.counts.unavailable > 0, 'some requests were answered 503');
});
