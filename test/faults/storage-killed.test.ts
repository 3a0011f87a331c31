import t from 'tap';
import { needsS3 } from '../helpers/s3.ts';
import { scaled } from '../helpers/scale.ts';
import { killStorage } from '../soak/inject-faults.ts';
import { underFaults } from '../soak/under-faults.ts';

t.setTimeout(1_800_000);

t.test(
  'loses and corrupts nothing when the S3 gateway is killed during uploads',
  needsS3,
  async t => {
    const world = await underFaults(t, scaled(12, 3), [[1, killStorage]]);
    t.ok(world.counts['scheduled runs'] > 0);
  },
);
