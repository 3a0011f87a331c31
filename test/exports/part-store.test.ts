import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import fs from 'node:fs';
import type http from 'node:http';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { shownDates } from '../../src/exports/aggregations.ts';
import { openExport } from '../../src/exports/open-export.ts';
import { adoptionRow, exportHeader, exportPart, loadBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { ask, open } from '../helpers/http-client.ts';
import { countCopies, keptParts, writeDenseSnapshot } from '../helpers/kept-parts.ts';
import { eventually } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';

const base = fs.mkdtempSync('/tmp/warehouse-export-part-store-');
const parts = keptParts(path.join(base, 'parts'));
const app = await startTestApp(t, {
  env: { PART_STORE_DIR: parts.directory, PART_STORE_MB: '64' },
});
/** The same data, every part rendered anew. */
const plainApp = await startApp(t, { databaseUrl: app.database.url, env: { PART_STORE_MB: '0' } });
t.teardown(async () => fs.rmSync(base, { recursive: true, force: true }));
const copies = countCopies(app.dependencies.exportPool);
const { pool } = app.database;
const today = '2026-03-02';
await app.putEnvironment('small', 'pro');
for (const date of ['2025-11-12', '2026-02-18', '2026-02-22', '2026-03-01']) {
  const rows = ['c1', 'c2', 'c3'].map(companyId =>
    adoptionRow({ companyId, companyName: `on ${date}` }),
  );
  await app.load('small', date, loadBody(rows));
}
await app.putEnvironment('big', 'pro');
await writeDenseSnapshot(pool, { environmentId: 'big', date: today, rows: 20_000 });

await app.putEnvironment('middle', 'pro');
await writeDenseSnapshot(pool, { environmentId: 'middle', date: today, rows: 2_000 });
const authorization = { authorization: `Bearer ${testAdminToken}` };
const urlOf = (environmentId: string, aggregation = 'today', origin = app.origin) =>
  `${origin}/v1/environments/${environmentId}/exports/${aggregation}.csv`;
const openFile = (environmentId: string, aggregation = 'today') =>
  open(urlOf(environmentId, aggregation), { headers: authorization });
const bigFile = (await plainApp.download('big', 'today')).body;
const middleFile = (await plainApp.download('middle', 'today')).body;

async function readRest(response: http.IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** As far as some bytes; the rest is for later. */
async function readSome(response: http.IncomingMessage): Promise<Buffer> {
  for (;;) {
    const chunk: Buffer | null = response.read();
    if (chunk !== null) return chunk;
    await new Promise(resolve => response.once('readable', resolve));
  }
}

const forgetParts = () => fs.rmSync(parts.directory, { recursive: true, force: true });
t.beforeEach(() => {
  forgetParts();
  copies.since();
});
t.afterEach(async () => {
  await eventually(() => app.dependencies.downloadLimit.active === 0, 'all slots given back');
  await eventually(() => parts.openFiles().length === 0, 'all files closed', 2_000);
  if (fs.existsSync(parts.directory) && fs.statSync(parts.directory).isDirectory()) {
    await eventually(() => parts.unfinished().length === 0, 'no unfinished file', 2_000);
  }
});

t.test('the same bytes with parts on and off, first and again, plain and packed', async t => {
  for (const aggregation of ['today', '30-days-daily', '3-months-weekly', '6-months-weekly']) {
    for (const headers of [{}, { 'accept-encoding': 'gzip' }]) {
      const off = await plainApp.download('small', aggregation, headers);
      for (const time of ['first', 'again']) {
        const on = await app.download('small', aggregation, headers);
        t.ok(on.body.equals(off.body), `${aggregation} ${JSON.stringify(headers)} ${time}`);
        const { date: _a, 'x-request-id': _b, ...onHeaders } = on.headers;
        const { date: _c, 'x-request-id': _d, ...offHeaders } = off.headers;
        t.strictSame(onHeaders, offHeaders);
      }
    }
  }
  copies.since();
  t.ok((await app.download('small', '30-days-daily')).text.split('\n').length > 9);
  t.equal(copies.since(), 0, 'what is kept is not rendered');
  const packed = await app.download('big', 'today', { 'accept-encoding': 'gzip' });
  t.ok(gunzipSync(packed.body).equals(bigFile));
  t.equal(copies.since(), 1);
  const file = await app.call('/v1/environments/big/exports/today.csv.gz');
  t.ok(file.body.equals(packed.body));
  t.ok((await app.download('big', 'today')).body.equals(bigFile));
  t.equal(copies.since(), 0);
});

t.test('a replaced, deleted or reloaded snapshot is never shown from before', async t => {
  await app.putEnvironment('moving', 'pro');
  for (let version = 0; version < 20; version += 1) {
    const rows = [adoptionRow({ companyName: `version ${version}` })];
    await app.load('moving', '2026-03-01', loadBody(rows));
    const expected = exportHeader + exportPart(rows, today);
    t.equal((await app.download('moving', 'today')).text, expected);
    t.equal((await app.download('moving', 'today')).text, expected);
    if (version % 3 !== 0) continue;
    await app.call('/v1/environments/moving/snapshots/2026-03-01', { method: 'DELETE' });
    t.equal((await app.download('moving', 'today')).text, exportHeader);
  }
});

t.test(
  'kept parts are removed and their snapshots replaced under a reader: the file is the one before',
  async t => {
    await app.putEnvironment('held', 'pro');
    // More than fits between the service and a reader who has stopped.
    await writeDenseSnapshot(pool, { environmentId: 'held', date: '2026-02-22', rows: 30_000 });
    await app.load('held', '2026-03-01', loadBody([adoptionRow()]));
    const file = (await plainApp.download('held', '3-months-weekly')).body;
    for (const [before, now] of [
      ['identity', 'identity'],
      ['gzip', 'gzip'],
      ['gzip', 'identity'],
      ['identity', 'gzip'],
    ] as const) {
      const isGzip = now === 'gzip';
      await app.download('held', '3-months-weekly', { 'accept-encoding': before });
      copies.since();
      const response = await open(urlOf('held', '3-months-weekly'), {
        headers: { ...authorization, 'accept-encoding': now },
      });
      const start = await readSome(response);
      forgetParts();
      await app.load('held', '2026-03-01', loadBody([adoptionRow({ companyName: 'replaced' })]));
      const all = Buffer.concat([start, await readRest(response)]);
      t.ok((isGzip ? gunzipSync(all) : all).equals(file), `kept as ${before}, read as ${now}`);
      t.equal(copies.since(), 0, 'without the database');
      forgetParts();
      await app.load('held', '2026-03-01', loadBody([adoptionRow()]));
    }
  },
);

t.test(
  'two kept parts are damaged under a reader and one was replaced: no file of two versions',
  async t => {
    await app.putEnvironment('twice', 'pro');
    const weeks = ['2026-02-15', '2026-02-22', '2026-03-01'];
    await writeDenseSnapshot(pool, { environmentId: 'twice', date: '2026-02-15', rows: 30_000 });
    for (const date of weeks.slice(1)) await app.load('twice', date, loadBody([adoptionRow()]));
    await app.download('twice', '3-months-weekly');
    t.equal(parts.whole().length, 3);
    const response = await openFile('twice', '3-months-weekly');
    await readSome(response);
    for (const name of parts
      .whole()
      .filter(part => weeks.slice(1).some(date => part.includes(date)))) {
      fs.truncateSync(path.join(parts.directory, name));
    }
    // As many rows as before.
    await app.load('twice', '2026-03-01', loadBody([adoptionRow({ companyName: 'replaced' })]));
    await t.rejects(readRest(response), { code: 'ECONNRESET' });
    const again = await app.download('twice', '3-months-weekly');
    t.ok(
      again.body.equals((await plainApp.download('twice', '3-months-weekly')).body),
      'nor is one kept',
    );
  },
);

t.test(
  'a file of kept parts that is never read leaves none of them open, however it ends',
  async t => {
    await app.download('small', '6-months-weekly');
    const dates = shownDates('6-months-weekly', today);
    for (const end of ['aborted', 'closed']) {
      const controller = new AbortController();
      const options = { compression: 'none', signal: controller.signal, keepParts: true } as const;
      const opened = await openExport(app.dependencies, 'small', dates, options);
      t.equal(parts.openFiles().length, opened.plan.parts.length);
      if (end === 'aborted') controller.abort();
      else opened.close();
      await eventually(
        () => parts.openFiles().length === 0,
        `all files closed when it is ${end}`,
        2_000,
      );
    }
  },
);

t.test('one snapshot under two dates: today, and the closed day tomorrow', async t => {
  const rows = [adoptionRow({ companyId: 'now' })];
  await app.putEnvironment('dated', 'pro');
  await app.load('dated', today, loadBody(rows));
  t.equal((await app.download('dated', 'today')).text, exportHeader + exportPart(rows, today));
  app.setNow('2026-03-03T01:00:00.000Z');
  t.equal(
    (await app.download('dated', 'today')).text,
    exportHeader + exportPart(rows, '2026-03-03'),
  );
  copies.since();
  t.equal(
    (await app.download('dated', '30-days-daily')).text,
    exportHeader + exportPart(rows, today),
  );
  t.equal(copies.since(), 0, 'the closed day is what today was');
  app.setNow('2026-03-02T10:00:00.000Z');
});

t.test('each byte of a kept part flipped: the same file, and the damage is gone', async t => {
  const { text } = await app.download('small', 'today');
  const [name = ''] = parts.whole();
  const good = parts.read(name);
  for (let at = 0; at < good.length; at += 1) {
    const bad = Buffer.from(good);
    bad[at] = (bad[at] ?? 0) ^ (1 << (at % 8));
    parts.write(name, bad);
    if ((await app.download('small', 'today')).text !== text) t.fail(`byte ${at}`);
    if (!parts.read(name).equals(good)) t.fail(`byte ${at} is still wrong`);
  }
  t.equal(copies.since(), 1 + good.length);
});

t.test('a part under another name is refused', async t => {
  await app.download('small', '30-days-daily');
  const [first = '', second = ''] = parts.whole();
  fs.copyFileSync(path.join(parts.directory, first), path.join(parts.directory, second));
  const [on, off] = [
    await app.download('small', '30-days-daily'),
    await plainApp.download('small', '30-days-daily'),
  ];
  t.equal(on.text, off.text);
});

t.test('random damage to a part of several blocks', async t => {
  await app.download('middle', 'today');
  const [name = ''] = parts.whole();
  const good = parts.read(name);
  for (let round = 0; round < 12; round += 1) {
    const bad = Buffer.from(good);
    for (let flips = 0; flips < 3; flips += 1) bad[randomInt(bad.length)] = randomInt(256);
    parts.write(name, round % 3 === 0 ? bad.fill(0, randomInt(bad.length)) : bad);
    t.ok((await app.download('middle', 'today')).body.equals(middleFile), `round ${round}`);
    t.ok(parts.read(name).equals(good), 'mended');
  }
});

t.test('random damage while the part is being read', async t => {
  await app.download('big', 'today');
  const [name = ''] = parts.whole();
  const good = parts.read(name);
  for (let round = 0; round < 2; round += 1) {
    const response = await openFile('big');
    const start = await readSome(response);
    const bad = Buffer.from(good);
    parts.write(name, bad.fill(randomInt(256), randomInt(bad.length)));
    t.ok(Buffer.concat([start, await readRest(response)]).equals(bigFile), `round ${round}`);
    // A reader that had passed the place before leaves the damage to the next.
    t.ok((await app.download('big', 'today')).body.equals(bigFile));
    t.ok(parts.read(name).equals(good), 'mended');
  }
});

const onlyPart = () => path.join(parts.directory, parts.whole()[0] ?? '');
const losses: Record<string, () => void> = {
  'the file deleted': () => fs.rmSync(onlyPart()),
  'the directory deleted': forgetParts,
  'the file cut short': () => fs.truncateSync(onlyPart(), randomInt(fs.statSync(onlyPart()).size)),
  'the file emptied': () => fs.truncateSync(onlyPart(), 0),
};
for (const [what, lose] of Object.entries(losses)) {
  t.test(`${what}: before a download and during one`, async t => {
    await app.download('middle', 'today');
    lose();
    t.ok((await app.download('middle', 'today')).body.equals(middleFile), 'before');
    t.equal(parts.whole().length, 1, 'kept again');
    forgetParts();
    await app.download('big', 'today');
    const response = await openFile('big');
    const start = await readSome(response);
    lose();
    t.ok(Buffer.concat([start, await readRest(response)]).equals(bigFile), 'during');
  });
}

t.test(
  'the directory deleted, or something else put in its place, while a part is rendered',
  async t => {
    for (const putFile of [false, true]) {
      forgetParts();
      const response = await openFile('big');
      const start = await readSome(response);
      forgetParts();
      if (putFile) fs.writeFileSync(parts.directory, 'not a directory');
      t.ok(Buffer.concat([start, await readRest(response)]).equals(bigFile));
      t.ok((await app.download('big', 'today')).body.equals(bigFile));
    }
  },
);

t.test('the disk is full during a download', async t => {
  const directory = path.join(base, 'tiny');
  fs.mkdirSync(directory);
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory]);
  if (mounted.status !== 0) {
    t.pass('left out', {
      skip: `no tmpfs can be mounted: ${mounted.error?.message ?? mounted.stderr}`,
    });
    return;
  }
  try {
    const tiny = await startApp(t, {
      databaseUrl: app.database.url,
      env: { PART_STORE_DIR: directory, PART_STORE_MB: '64' },
    });
    for (let time = 0; time < 2; time += 1) {
      const [one, two] = await Promise.all([
        tiny.download('big', 'today'),
        tiny.download('big', 'today'),
      ]);
      t.ok(one.body.equals(bigFile));
      t.ok(two.body.equals(bigFile));
    }
    t.ok(
      tiny.log.some(line => /ENOSPC/.test(JSON.stringify(line))),
      'it was full',
    );
    await eventually(() => fs.readdirSync(directory).length === 0, 'nothing is left there');
    const small = await tiny.download('small', 'today');
    t.ok(small.body.equals((await plainApp.download('small', 'today')).body));
    t.equal(keptParts(directory).whole().length, 1, 'and what fits is kept');
  } finally {
    spawnSync('umount', ['-l', directory]);
  }
});

t.test('requests for one part at the same time render it once', async t => {
  for (const count of [2, 5]) {
    forgetParts();
    copies.since();
    const asked = Array.from({ length: count }, () => app.download('big', 'today'));
    for (const { body } of await Promise.all(asked)) t.ok(body.equals(bigFile));
    t.equal(copies.since(), 1, `${count} at once`);
  }
});

t.test('a slow first reader holds no other up, and gets its own file', async t => {
  const slow = await openFile('big');
  const start = await readSome(slow);
  slow.pause();
  const startedAt = performance.now();
  t.ok((await app.download('big', 'today')).body.equals(bigFile));
  t.ok(performance.now() - startedAt < 5_000);
  copies.since();
  t.ok((await app.download('big', 'today')).body.equals(bigFile), 'kept by the second');
  t.equal(copies.since(), 0);
  t.ok(Buffer.concat([start, await readRest(slow)]).equals(bigFile));
});

t.test('the first reader goes away in the middle: the others get the whole file', async t => {
  const first = await openFile('big');
  await readSome(first);
  const others = [
    app.download('big', 'today'),
    app.download('big', 'today', { 'accept-encoding': 'gzip' }),
  ];
  await eventually(() => app.dependencies.downloadLimit.active === 3);
  first.destroy();
  const [one, two] = await Promise.all(others);
  t.ok(one?.body.equals(bigFile));
  t.ok(two && gunzipSync(two.body).equals(bigFile));
  // Two, unless the machine is so busy that one reader holds the other up.
  t.ok(copies.since() <= 3, 'each renders it once at most');
  t.equal(parts.whole().length, 2, 'in both forms');
});

t.test('readers that come and go leave nothing open', async t => {
  for (let round = 0; round < 20; round += 1) {
    if (round % 3 === 0) forgetParts();
    const controller = new AbortController();
    const asked = [1, 2, 3].map(() =>
      ask(urlOf('big'), { headers: authorization, signal: controller.signal }),
    );
    const settled = Promise.allSettled(asked);
    await new Promise(resolve => setTimeout(resolve, randomInt(60)));
    controller.abort();
    await settled;
  }
  t.ok((await app.download('big', 'today')).body.equals(bigFile));
});
