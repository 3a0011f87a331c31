import t from 'tap';
import { createParquetPlaces } from '../../../src/exports/parquet/places.ts';

const never = new AbortController().signal;
const busy = { code: 'too_many_downloads', headers: { 'retry-after': '5' } };

t.test('gives two places, and at most one to an environment', t => {
  const places = createParquetPlaces();
  const one = places.takeForDownload('one');
  t.throws(() => places.takeForDownload('one'), busy);
  const two = places.takeForDownload('two');
  t.throws(() => places.takeForDownload('three'), busy);
  one.release();
  one.release();
  t.equal(places.taken, 1);
  const three = places.takeForDownload('three');
  t.throws(() => places.takeForDownload('one'), busy);
  two.release();
  three.release();
  t.equal(places.taken, 0);
  t.end();
});

t.test('passes a place to the runs that wait, in order, and before downloads', async t => {
  const places = createParquetPlaces();
  const first = await places.takeForRun(never);
  const second = await places.takeForRun(never);
  const order: string[] = [];
  const third = places.takeForRun(never).then(place => {
    order.push('third');
    return place;
  });
  const fourth = places.takeForRun(never).then(place => {
    order.push('fourth');
    return place;
  });
  first.release();
  t.throws(() => places.takeForDownload('one'), busy, 'a run waits');
  (await third).release();
  (await fourth).release();
  t.strictSame(order, ['third', 'fourth']);
  second.release();
  t.equal(places.taken, 0);
});

t.test('keeps no place for a waiting run that is aborted', async t => {
  const places = createParquetPlaces();
  const held = [places.takeForDownload('one'), places.takeForDownload('two')];
  const controller = new AbortController();
  const waiting = places.takeForRun(controller.signal);
  controller.abort(new Error('cancelled'));
  for (const place of held) place.release();
  await t.rejects(waiting, { message: 'cancelled' });
  await t.rejects(places.takeForRun(controller.signal), { message: 'cancelled' });
  t.equal(places.taken, 0);
});

t.test('ends the oldest long download when a run waits', async t => {
  const places = createParquetPlaces(0);
  const downloads = [places.takeForDownload('one'), places.takeForDownload('two')];
  for (const { signal, release } of downloads) signal.addEventListener('abort', release);
  const run = await places.takeForRun(never);
  t.strictSame(
    downloads.map(({ signal }) => signal.aborted),
    [true, false],
  );
  run.release();
  downloads[1]?.release();
  t.equal(places.taken, 0);
});

t.test('ends no download before its time', async t => {
  const places = createParquetPlaces();
  const downloads = [places.takeForDownload('one'), places.takeForDownload('two')];
  const controller = new AbortController();
  const run = places.takeForRun(controller.signal);
  t.notOk(downloads.some(({ signal }) => signal.aborted));
  controller.abort(new Error('enough'));
  await t.rejects(run);
  for (const { release } of downloads) release();
  t.equal(places.taken, 0);
});
