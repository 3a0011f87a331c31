import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { adoptionRow, loadBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { countCopies, keptParts, writeDenseSnapshot } from '../helpers/kept-parts.ts';

const base = fs.mkdtempSync('/tmp/warehouse-export-part-room-');
const parts = keptParts(path.join(base, 'parts'));
/** Every part rendered anew. */
const app = await startTestApp(t, { env: { PART_STORE_MB: '0' } });
t.teardown(async () => fs.rmSync(base, { recursive: true, force: true }));
const { pool } = app.database;
const today = '2026-03-02';
for (let index = 0; index < 8; index += 1) {
  await app.putEnvironment(`env-${index}`, 'pro');
  await writeDenseSnapshot(pool, {
    environmentId: `env-${index}`,
    date: today,
    // As plain text a third of 4 MB.
    rows: 1_700,
    salt: `${index}`,
  });
}
await app.putEnvironment('small', 'pro');
await app.load('small', today, loadBody([adoptionRow()]));

t.test('what is kept stays below its limit, at every moment', async t => {
  const bounded = keptParts(path.join(base, 'bounded'));
  const limit = 4;
  const small = await startApp(t, {
    databaseUrl: app.database.url,
    env: { PART_STORE_DIR: bounded.directory, PART_STORE_MB: String(limit) },
  });
  let most = 0;
  const watch = setInterval(() => {
    most = Math.max(most, bounded.usedBytes());
  }, 1);
  for (let round = 0; round < 2; round += 1) {
    for (let day = 0; day < 8; day += 2) {
      const both = [day, day + 1].map(index => small.download(`env-${index}`, 'today'));
      for (const { status } of await Promise.all(both)) t.equal(status, 200);
    }
  }
  // Larger than the whole store: it is sent all the same.
  await writeDenseSnapshot(pool, { environmentId: 'env-0', date: today, rows: 12_000 });
  const large = await small.download('env-0', 'today');
  t.ok(large.body.equals((await app.download('env-0', 'today')).body));
  clearInterval(watch);
  t.ok(most <= limit * 2 ** 20, `${most} bytes at most`);
  t.ok(most > limit * 2 ** 19, 'and the room is used');
  t.equal(bounded.unfinished().length, 0);
});

t.test('what is used stays, what is not goes first', async t => {
  const bounded = keptParts(path.join(base, 'used'));
  const small = await startApp(t, {
    databaseUrl: app.database.url,
    env: { PART_STORE_DIR: bounded.directory, PART_STORE_MB: '4' },
  });
  const smallCopies = countCopies(small.dependencies.exportPool);
  for (const environmentId of [
    'env-1',
    'env-2',
    'env-1',
    'env-3',
    'env-1',
    'env-4',
    'env-1',
    'env-5',
    'env-1',
  ]) {
    await small.download(environmentId, 'today');
  }
  t.equal(smallCopies.since(), 5);
});

t.test('files that a dead process left are removed, those of a living one are not', async t => {
  fs.mkdirSync(parts.directory, { recursive: true });
  const [dead, living] = ['dead.part.tmp', 'living.part.tmp'].map(name =>
    path.join(parts.directory, name),
  );
  for (const file of [dead, living]) fs.writeFileSync(file ?? '', 'x');
  const hourAgo = new Date(Date.now() - 3_600_000);
  fs.utimesSync(dead ?? '', hourAgo, hourAgo);
  // A process looks when it first writes.
  const other = await startApp(t, {
    databaseUrl: app.database.url,
    env: { PART_STORE_DIR: parts.directory, PART_STORE_MB: '64' },
  });
  await other.download('small', 'today');
  t.strictSame(parts.unfinished(), ['living.part.tmp']);
  fs.rmSync(living ?? '');
});
