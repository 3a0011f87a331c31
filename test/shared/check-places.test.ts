import t from 'tap';
import { createCheckPlaces } from '../../src/shared/check-places.ts';

function placesWithClock(waitMs = 0) {
  let nowMs = 0;
  const places = createCheckPlaces({
    total: 4,
    perEnvironment: 2,
    slowPlaces: 1,
    waitMs,
    freeMs: 1_500,
    slowMs: 15_000,
    rememberMs: 600_000,
    now: () => nowMs,
  });
  return {
    places,
    pass: (ms: number) => {
      nowMs += ms;
    },
    /** Makes a check of the given duration. */
    async check(environmentId: string, ms: number) {
      const release = await places.acquire(environmentId);
      nowMs += ms;
      release();
    },
  };
}

const refusal = { code: 'rate_limited', headers: { 'retry-after': '5' } };

t.test('admits two checks of an environment and four in total', async t => {
  const { places } = placesWithClock();
  const releases = [await places.acquire('a'), await places.acquire('a')];
  await t.rejects(places.acquire('a'), refusal);
  releases.push(await places.acquire('b'), await places.acquire('c'));
  await t.rejects(places.acquire('d'), refusal);
  t.equal(places.active, 4);
  for (const release of releases) {
    release();
    release();
  }
  t.equal(places.active, 0);
  (await places.acquire('d'))();
});

t.test('gives a free place to the environment with the fewest checks', async t => {
  const { places } = placesWithClock(60_000);
  const releases: (() => void)[] = [];
  for (const id of ['a', 'b', 'b', 'c']) releases.push(await places.acquire(id));
  const order: string[] = [];
  const wait = async (id: string) => {
    const release = await places.acquire(id);
    order.push(id);
    return release;
  };
  const waiting = [wait('a'), wait('c'), wait('d'), wait('d')];
  await t.rejects(places.acquire('d'), refusal, 'waiting checks count');
  releases[1]?.();
  await waiting[2];
  t.strictSame(order, ['d']);
  releases[2]?.();
  releases[0]?.();
  await waiting[0];
  releases[3]?.();
  for (const release of await Promise.all(waiting)) release();
  t.strictSame(order, ['d', 'a', 'c', 'd']);
  t.equal(places.active, 0);
});

t.test('lets environments with slow endpoints share a place', async t => {
  const { places, check, pass } = placesWithClock();
  for (const id of ['a', 'b']) {
    await check(id, 12_000);
    await check(id, 12_000);
  }
  const release = await places.acquire('a');
  await t.rejects(places.acquire('b'), refusal);
  await t.rejects(places.acquire('a'), refusal);
  const others = [await places.acquire('c'), await places.acquire('c'), await places.acquire('d')];
  release();
  for (const end of others) end();
  pass(600_000);
  const all = [await places.acquire('a'), await places.acquire('b'), await places.acquire('b')];
  t.equal(places.active, 3, 'both are forgotten');
  for (const end of all) end();
});

t.test('counts checks in progress, but neither one slow check nor many quick ones', async t => {
  const { places, check, pass } = placesWithClock();
  for (let count = 0; count < 100; count += 1) await check('quick', 1_500);
  await check('once', 16_000);
  const release = await places.acquire('silent');
  pass(17_000);
  const lane = await places.acquire('silent');
  await t.rejects(places.acquire('silent'), refusal);
  for (const id of ['quick', 'once']) (await places.acquire(id))();
  release();
  lane();
});
