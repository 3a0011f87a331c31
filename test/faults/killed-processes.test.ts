import t from 'tap';
import { needsS3 } from '../helpers/s3.ts';
import { killApi, killWorker } from '../soak/inject-faults.ts';
import { underFaults } from '../soak/under-faults.ts';
import { scaled } from './scale.ts';

/** SIGKILL at random instants, under loads, downloads, config changes and runs, half of which the killed process carries. */

t.setTimeout(1_800_000);

t.test('API processes are killed', needsS3, async t => {
  const world = await underFaults(t, scaled(20, 4), [[1, killApi]]);
  t.equal(world.counts.kills, scaled(20, 4));
});

t.test('workers are killed', needsS3, async t => {
  const world = await underFaults(t, scaled(20, 4), [[1, killWorker]]);
  t.equal(world.counts.kills, scaled(20, 4));
  t.ok(world.counts['scheduled runs'] > 0);
});
