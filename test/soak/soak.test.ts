import { randomInt } from 'node:crypto';
import t from 'tap';
import { needsS3 } from '../helpers/s3.ts';
import { processFaults, surroundingFaults } from './inject-faults.ts';
import { runMixedLoad } from './run-mixed-load.ts';
import { report } from './under-faults.ts';
import { unexpectedErrors } from './unexpected-errors.ts';

/**
 * Runs the load with all faults for `SOAK_MINUTES` (default 30). `SOAK_SEED` repeats the choices of
 * another run.
 */
const minutes = Number(process.env['SOAK_MINUTES'] ?? 30);
const seed = Number(process.env['SOAK_SEED'] ?? randomInt(2 ** 31));

t.setTimeout(minutes * 60_000 + 900_000);

t.test(
  'loses and corrupts nothing under a mixed load with all kinds of faults',
  needsS3,
  async t => {
    const { world, faults } = await runMixedLoad(t, {
      seed,
      lasts: { durationMs: minutes * 60_000 },
      faults: [processFaults, surroundingFaults],
      quietMs: 12_000,
    });
    report(`soak of ${minutes} min`, seed, { world, faults });
    t.strictSame(faults, []);
    t.ok(
      world.aws === null || world.counts['compared objects of roles'] > 0,
      'compares objects of roles',
    );
    t.strictSame(unexpectedErrors(world), []);
  },
);
