import t from 'tap';
import { needsS3 } from '../helpers/s3.ts';
import { scaled } from '../helpers/scale.ts';
import { killApi, killWorker } from '../soak/inject-faults.ts';
import { underFaults } from '../soak/under-faults.ts';

/**
 * SIGKILL at random instants during ingests, downloads, config changes and runs. One of two API
 * processes and one of two workers are killed.
 */

t.setTimeout(1_800_000);

t.test('loses and corrupts nothing when API processes are killed', needsS3, async t => {
  const world = await underFaults(t, scaled(20, 4), [[1, killApi]]);
  t.equal(world.counts.kills, scaled(20, 4));
});

t.test('loses and corrupts nothing when workers are killed', needsS3, async t => {
  const world = await underFaults(t, scaled(20, 4), [[1, killWorker]]);
  t.equal(world.counts.kills, scaled(20, 4));
  t.ok(world.counts['scheduled runs'] > 0);
});
