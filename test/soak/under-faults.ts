import { randomInt } from 'node:crypto';
import type { Test } from 'tap';
import type { Fault } from './inject-faults.ts';
import { runMixedLoad } from './run-mixed-load.ts';
import { unexpectedErrors } from './unexpected-errors.ts';
import type { World } from './world.ts';

/**
 * Runs a mixed load while `faults` are injected `times` times. Fails the test on any unexpected
 * finding.
 */
export async function underFaults(
  t: Test,
  times: number,
  faults: readonly (readonly [weight: number, fault: Fault])[],
): Promise<World> {
  const seed = Number(process.env['SOAK_SEED'] ?? randomInt(2 ** 31));
  const result = await runMixedLoad(t, {
    seed,
    lasts: { times },
    faults: [faults],
    quietMs: 2_500,
  });
  report(t.name, seed, result);
  t.strictSame(result.faults, []);
  t.strictSame(unexpectedErrors(result.world), []);
  return result.world;
}

/** Prints the counts and findings to stderr, which tap passes on unchanged. */
export function report(
  what: string,
  seed: number,
  { world, faults }: { world: World; faults: readonly string[] },
): void {
  const figures = Object.entries(world.counts)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${count} ${name}`);
  console.error(`${what} (seed ${seed}): ${figures.join(', ')}; ${faults.length} lost or wrong`);
  for (const line of faults.flatMap(fault => linesAbout(world, fault))) console.error(line);
  if (unexpectedErrors(world).length > 0) {
    console.error(`outages of the database: ${JSON.stringify(world.outages.database)}`);
    for (const line of linesWith(world, 'PartLostError')) console.error(line);
  }
}

/** Returns the last log lines about the config that a finding names. */
function linesAbout(world: World, fault: string): string[] {
  const configId = /[0-9a-f]{8}-[0-9a-f-]{27}/.exec(fault)?.[0];
  return configId === undefined ? [] : linesWith(world, configId);
}

function linesWith(world: World, text: string): string[] {
  return world.history
    .flatMap(({ name, service }) => service.logged().map(line => ({ name, line })))
    .filter(({ line }) => JSON.stringify(line).includes(text))
    .slice(-30)
    .map(({ name, line }) => `${name}: ${JSON.stringify(line).slice(0, 1_500)}`);
}
