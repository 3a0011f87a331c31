import t from 'tap';
import {
  createParquetPlaces,
  NoParquetPlaceError,
  parquetPlacesOptions,
} from '../../../src/exports/parquet/places.ts';

const never = new AbortController().signal;
const busy = { code: 'too_many_downloads', headers: { 'retry-after': '5' } };

t.test('gives two places, and at most one to an environment', t => {
  const places = createParquetPlaces(parquetPlacesOptions);
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
  const places = createParquetPlaces(parquetPlacesOptions);
  const first = await places.takeForRun('one', never);
  const second = await places.takeForRun('two', never);
  const order: string[] = [];
  const third = places.takeForRun('three', never).then(place => {
    order.push('third');
    return place;
  });
  const fourth = places.takeForRun('four', never).then(place => {
    order.push('fourth');
    return place;
  });
  first.release();
  t.throws(() => places.takeForDownload('five'), busy, 'the next run has the place');
  (await third).release();
  (await fourth).release();
  t.strictSame(order, ['third', 'fourth']);
  second.release();
  t.equal(places.taken, 0);
});

t.test('keeps no place for a waiting run that is aborted', async t => {
  const places = createParquetPlaces(parquetPlacesOptions);
  const held = [places.takeForDownload('one'), places.takeForDownload('two')];
  const controller = new AbortController();
  const waiting = places.takeForRun('three', controller.signal);
  controller.abort(new Error('cancelled'));
  for (const place of held) place.release();
  await t.rejects(waiting, { message: 'cancelled' });
  await t.rejects(places.takeForRun('three', controller.signal), { message: 'cancelled' });
  t.equal(places.taken, 0);
});

t.test('ends the oldest long download when a run waits', async t => {
  const places = createParquetPlaces({ ...parquetPlacesOptions, shareMs: 0 });
  const downloads = [places.takeForDownload('one'), places.takeForDownload('two')];
  for (const { signal, release } of downloads) signal.addEventListener('abort', release);
  const run = await places.takeForRun('three', never);
  t.strictSame(
    downloads.map(({ signal }) => signal.aborted),
    [true, false],
  );
  run.release();
  downloads[1]?.release();
  t.equal(places.taken, 0);
});

t.test('ends no download before its time', async t => {
  const places = createParquetPlaces(parquetPlacesOptions);
  const downloads = [places.takeForDownload('one'), places.takeForDownload('two')];
  const controller = new AbortController();
  const run = places.takeForRun('three', controller.signal);
  t.notOk(downloads.some(({ signal }) => signal.aborted));
  controller.abort(new Error('enough'));
  await t.rejects(run);
  for (const { release } of downloads) release();
  t.equal(places.taken, 0);
});

t.test('gives an environment one place for its runs and downloads together', async t => {
  const places = createParquetPlaces(parquetPlacesOptions);
  const first = await places.takeForRun('one', never);
  t.throws(() => places.takeForDownload('one'), busy);
  const second = places.takeForRun('one', never);
  const third = places.takeForRun('one', never);
  const other = await places.takeForRun('two', never);
  other.release();
  t.equal(places.taken, 1, 'the waiting runs of the first environment leave the second place free');
  const download = places.takeForDownload('two');
  first.release();
  (await second).release();
  (await third).release();
  download.release();
  t.equal(places.taken, 0);
});

t.test('ends the wait of a run after a time, so that it keeps no worker', async t => {
  const places = createParquetPlaces({ ...parquetPlacesOptions, waitMs: 20 });
  const held = await places.takeForRun('one', never);
  await t.rejects(places.takeForRun('one', never), new NoParquetPlaceError());
  held.release();
  t.equal(places.taken, 0);
  (await places.takeForRun('one', never)).release();
});

t.test('ends the long download of the environment of a waiting run', async t => {
  const places = createParquetPlaces({ ...parquetPlacesOptions, shareMs: 0 });
  const download = places.takeForDownload('one');
  download.signal.addEventListener('abort', download.release);
  const run = await places.takeForRun('one', never);
  t.equal(download.signal.aborted, true);
  run.release();
});

t.test('passes the place of a long download to a download of another environment', t => {
  const places = createParquetPlaces({ ...parquetPlacesOptions, shareMs: 0 });
  const take = (environmentId: string) => {
    const place = places.takeForDownload(environmentId);
    place.signal.addEventListener('abort', place.release);
    return place;
  };
  const [first, second, third] = [take('one'), take('two'), take('three')];
  t.strictSame(
    [first, second, third].map(({ signal }) => signal.aborted),
    [true, false, false],
  );
  t.throws(() => take('two'), busy, 'an environment does not end its own download');
  t.equal(places.taken, 2);
  t.end();
});
