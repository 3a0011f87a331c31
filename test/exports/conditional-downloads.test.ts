import { createHash } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { gunzipSync } from 'node:zlib';
import puppeteer from 'puppeteer-core';
import t, { type Test } from 'tap';
import { deleteSnapshots } from '../../src/retention/unneeded-snapshots.sql.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp, testNow } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { type Answer, ask } from '../helpers/http-client.ts';
import { needsProgram, startProgram } from '../helpers/programs.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { registerSecret, testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.setTimeout(600_000);

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');
const rows = [adoptionRow(), adoptionRow({ companyId: 'c2', companyName: 'Ü, "2"' })];
await app.ingest('acme', '2026-03-02', ingestBody(rows));
await renderAll(app);
const csv = Buffer.from(exportHeader + exportPart(rows, '2026-03-02'));

async function linkTo(json: object): Promise<string> {
  const answer = await app.call('/v1/environments/acme/download-links', { method: 'POST', json });
  registerSecret(answer.json.url.split('/').at(-1));
  return new URL(answer.json.url).pathname;
}

const base = '/v1/environments/acme/exports/today';
const gzip = { 'accept-encoding': 'gzip' };
/** Each representation of one file, by its own path and by a link. */
const files = [
  { name: 'csv', path: `${base}.csv`, headers: {}, isPacked: false },
  { name: 'gzip-encoded csv', path: `${base}.csv`, headers: gzip, isPacked: true },
  { name: 'csv.gz', path: `${base}.csv.gz`, headers: {}, isPacked: true },
  { name: 'link', path: await linkTo({ aggregation: 'today' }), headers: {}, isPacked: false },
  {
    name: 'gzip-encoded link',
    path: await linkTo({ aggregation: 'today' }),
    headers: gzip,
    isPacked: true,
  },
  {
    name: 'gzip link',
    path: await linkTo({ aggregation: 'today', compression: 'gzip' }),
    headers: {},
    isPacked: true,
  },
  {
    name: 'link as of a date',
    path: await linkTo({ aggregation: 'today', asOf: '2026-03-02' }),
    headers: {},
    isPacked: false,
  },
] as const;
type File = (typeof files)[number];
type Headers = Readonly<Record<string, string>>;

const get = (file: File, headers: Headers = {}, method = 'GET') =>
  app.call(file.path, { method, headers: { ...file.headers, ...headers } });

for (const file of files) {
  t.test(`sends length, validators and ranges of a file (${file.name})`, async t => {
    // The other files have the first case of each table. All files take the same way.
    const casesOf = <Case>(table: readonly Case[]) =>
      file.name === 'csv' ? table : table.slice(0, 1);
    const whole = await get(file);
    t.equal(whole.status, 200);
    const plain = file.isPacked ? gunzipSync(whole.body) : whole.body;
    t.equal(plain.toString(), csv.toString());
    const { etag = '', 'last-modified': lastModified = '' } = whole.headers;
    t.match(etag, /^"[\w-]+"$/, 'strong');
    t.match(lastModified, /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/);
    t.equal(whole.headers['content-length'], String(whole.body.length));
    t.equal(whole.headers['accept-ranges'], 'bytes');
    t.equal(whole.headers['cache-control'], 'private, no-cache');
    t.equal(whole.headers['transfer-encoding'], undefined);

    const head = await get(file, {}, 'HEAD');
    const shown = ({ headers: { date: _, 'x-request-id': __, ...headers } }: Answer) => headers;
    t.equal(head.status, 200);
    t.strictSame(shown(head), shown(whole), 'HEAD has the headers of GET');
    t.equal(head.body.length, 0);
    const headOfRange = await get(file, { range: 'bytes=0-1' }, 'HEAD');
    t.equal(headOfRange.status, 200, 'HEAD ignores ranges');
    t.strictSame(shown(headOfRange), shown(whole));

    for (const headers of casesOf<Headers>([
      { 'if-none-match': etag },
      { 'if-none-match': '*' },
      { 'if-none-match': `"x", W/${etag}` },
      { 'if-modified-since': lastModified },
      { 'if-none-match': etag, 'if-modified-since': 'Thu, 01 Jan 1970 00:00:00 GMT' },
      { 'if-none-match': etag, range: 'bytes=0-1' },
    ])) {
      for (const method of ['GET', 'HEAD']) {
        const answer = await get(file, headers, method);
        t.equal(answer.status, 304, JSON.stringify(headers));
        t.equal(answer.body.length, 0);
        t.equal(answer.headers.etag, etag);
        t.equal(answer.headers['last-modified'], lastModified);
        t.equal(answer.headers['cache-control'], 'private, no-cache');
        t.equal(answer.headers.vary, whole.headers.vary);
        t.equal(answer.headers['content-length'], undefined);
      }
    }
    for (const headers of casesOf<Headers>([
      { 'if-none-match': '"x"' },
      { 'if-none-match': '"x"', 'if-modified-since': lastModified },
      { 'if-modified-since': 'Thu, 01 Jan 1970 00:00:00 GMT' },
      { 'if-match': etag },
      { 'if-match': '*' },
    ])) {
      t.equal((await get(file, headers)).status, 200, JSON.stringify(headers));
    }
    for (const headers of casesOf<Headers>([
      { 'if-match': '"x"' },
      { 'if-match': `W/${etag}` },
      { 'if-unmodified-since': 'Thu, 01 Jan 1970 00:00:00 GMT' },
    ])) {
      const answer = await get(file, headers);
      t.equal(answer.status, 412, JSON.stringify(headers));
      t.equal(answer.json.code, 'precondition_failed');
      t.equal((await get(file, headers, 'HEAD')).status, 412);
    }

    const size = whole.body.length;
    for (const [range, start, end] of casesOf([
      ['bytes=0-0', 0, 0],
      ['bytes=10-99', 10, 99],
      ['bytes=100-', 100, size - 1],
      ['bytes=-7', size - 7, size - 1],
      [`bytes=${size - 1}-`, size - 1, size - 1],
      ['bytes=5-99999999', 5, size - 1],
      ['bytes=0-', 0, size - 1],
    ] as const)) {
      for (const condition of [{}, { 'if-range': etag }]) {
        const answer = await get(file, { range, ...condition });
        t.equal(answer.status, 206, range);
        t.equal(answer.headers['content-range'], `bytes ${start}-${end}/${size}`);
        t.equal(answer.headers['content-length'], String(end - start + 1));
        t.equal(answer.headers.etag, etag);
        t.strictSame(answer.body, whole.body.subarray(start, end + 1), range);
      }
    }
    for (const headers of casesOf<Headers>([
      { range: 'bytes=0-1,5-6' },
      { range: 'bytes=5-4' },
      { range: 'rows=0-1' },
      { range: 'bytes=0-1', 'if-range': '"x"' },
      { range: 'bytes=0-1', 'if-range': `W/${etag}` },
      { range: 'bytes=0-1', 'if-range': lastModified },
      { range: 'bytes=0-1', 'if-range': 'Thu, 01 Jan 1970 00:00:00 GMT' },
      { range: `bytes=${size}-`, 'if-range': '"x"' },
    ])) {
      const answer = await get(file, headers);
      t.equal(answer.status, 200, JSON.stringify(headers));
      t.strictSame(answer.body, whole.body);
    }
    for (const range of casesOf([`bytes=${size}-`, 'bytes=99999999-', 'bytes=-0'])) {
      const answer = await get(file, { range });
      t.equal(answer.status, 416, range);
      t.equal(answer.json.code, 'range_not_satisfiable');
      t.equal(answer.headers['content-range'], `bytes */${size}`);
      t.equal(answer.headers['content-type'], 'application/problem+json; charset=utf-8');
    }
  });
}

t.test('returns the requested bytes for ranges over the whole file', async t => {
  for (const file of files.slice(0, 3)) {
    const whole = (await get(file)).body;
    for (const step of [61, 245]) {
      const pieces: Buffer[] = [];
      for (let start = 0; start < whole.length; start += step) {
        const range = `bytes=${start}-${start + step - 1}`;
        pieces.push((await get(file, { range })).body);
      }
      t.strictSame(Buffer.concat(pieces), whole, `${file.name}, ${step} bytes each`);
    }
  }
});

t.test(
  'sends the same ETag for a representation on every path, and different ones for others',
  async t => {
    const tags = await Promise.all(files.map(async file => (await get(file)).headers.etag));
    const [plain, encoded, packed, link, encodedLink, packedLink, datedLink] = tags;
    t.equal(new Set([plain, encoded, packed]).size, 3);
    t.strictSame([link, encodedLink, packedLink, datedLink], [plain, encoded, packed, plain]);
  },
);

t.test('lists size and ETag of the CSV file of each export', async t => {
  const { items } = (await app.call('/v1/environments/acme/exports')).json;
  for (const item of items) {
    const file = await app.call(item.href);
    t.equal(item.sizeBytes, file.body.length, item.aggregation);
    t.equal(item.etag, file.headers.etag);
    t.equal(item.rowCount, Number(file.headers['x-total-rows']));
  }
  t.equal(new Set(items.map((item: { etag: string }) => item.etag)).size > 1, true);
});

t.test('changes ETag, size and answers to conditions when a snapshot is replaced', async t => {
  await app.putEnvironment('changing', 'pro');
  const path = '/v1/environments/changing/exports/today.csv';
  const call = (headers: Record<string, string>) => app.call(path, { headers });
  await app.ingest('changing', '2026-03-02', ingestBody(rows));
  await renderAll(app);
  const first = await call({});
  await app.database.pool.query(
    `update snapshots set completed_at = completed_at - interval '1 hour' where environment_id = 'changing'`,
  );
  const { etag = '', 'last-modified': lastModified = '' } = (await call({})).headers;
  t.equal(etag, first.headers.etag);
  const beginning = await call({ range: 'bytes=0-99' });
  const more = [...rows, adoptionRow({ companyId: 'c3' })];
  await app.ingest('changing', '2026-03-02', ingestBody(more));
  await renderAll(app);

  const whole = exportHeader + exportPart(more, '2026-03-02');
  for (const condition of [etag, lastModified]) {
    const rest = await call({ range: 'bytes=100-', 'if-range': condition });
    t.equal(rest.status, 200, 'the complete new file, not the end of another');
    t.equal(rest.text, whole);
    t.not(rest.headers.etag, etag);
  }
  t.equal((await call({ 'if-none-match': etag })).status, 200);
  t.equal((await call({ 'if-modified-since': lastModified })).status, 200);
  t.equal((await call({ 'if-match': etag })).status, 412);
  t.equal(beginning.body.length, 100);
});

t.test('proves by no date that a file is unchanged after a change without a later one', async t => {
  const newer = new Date(Date.parse(testNow) + 1_000).toISOString();
  const dates = ['2026-02-27', '2026-02-28', '2026-03-01', '2026-03-02'];
  for (const [id, change] of Object.entries({
    deleted: () => app.call('/v1/environments/deleted/snapshots/2026-02-27', { method: 'DELETE' }),
    'newest-deleted': () =>
      app.call('/v1/environments/newest-deleted/snapshots/2026-03-02', { method: 'DELETE' }),
    'replaced-in-a-second': () => app.ingest('replaced-in-a-second', '2026-03-01', ingestBody([])),
    'removed-by-retention': () =>
      app.dependencies.db
        .transaction()
        .execute(trx => deleteSnapshots(trx, '2026-02-27', ['removed-by-retention'])),
  })) {
    await t.test(id, async t => {
      t.teardown(() => app.setNow(testNow));
      await app.putEnvironment(id, 'pro');
      for (const date of dates) await app.ingest(id, date, ingestBody(rows));
      await renderAll(app);
      const path = `/v1/environments/${id}/exports/30-days-daily.csv?asOf=2026-03-03`;
      app.setNow('2026-03-03T00:00:00.000Z');
      const call = (headers: Headers, method = 'GET') => app.call(path, { method, headers });
      const { etag = '', 'last-modified': since = '' } = (await call({})).headers;
      const range = 'bytes=100-';
      t.equal((await call({ 'if-modified-since': since })).status, 304);
      t.equal((await call({ 'if-unmodified-since': since, range })).status, 206);
      app.setNow(testNow);
      await change();
      await renderAll(app);
      app.setNow('2026-03-03T00:00:00.000Z');

      const changed = await call({});
      t.not(changed.headers.etag, etag);
      t.equal((await call({ 'if-modified-since': since })).status, 200);
      t.equal((await call({ 'if-modified-since': since }, 'HEAD')).status, 200);
      t.equal((await call({ 'if-unmodified-since': since, range })).status, 412);
      const resumed = await call({ 'if-range': since, range });
      t.equal(resumed.status, 200);
      t.strictSame(resumed.body, changed.body);
      t.equal((await call({ 'if-none-match': changed.headers.etag ?? '' })).status, 304);

      app.setNow(newer);
      await app.ingest(id, '2026-02-28', ingestBody(rows.slice(1)));
      app.setNow('2026-03-03T00:00:00.000Z');
      const { 'last-modified': later = '' } = (await call({})).headers;
      t.equal((await call({ 'if-modified-since': since })).status, 200);
      t.equal((await call({ 'if-modified-since': later })).status, 304, 'after a later snapshot');
    });
  }
});

t.test('serves a new file with a new ETag after midnight without a new snapshot', async t => {
  const path = `${base}.csv`;
  await app.database.pool.query(
    `update snapshots set completed_at = '2026-03-02T09:00:00Z' where environment_id = 'acme'`,
  );
  const before = await app.call(path);
  const { etag = '', 'last-modified': since = '' } = before.headers;
  t.equal(since, 'Mon, 02 Mar 2026 09:00:00 GMT');
  t.equal((await app.call(path, { headers: { 'if-modified-since': since } })).status, 304);
  app.setNow('2026-03-03T00:00:00.000Z');
  t.teardown(() => app.setNow(testNow));
  const after = await app.call(path, { headers: { 'if-modified-since': since } });
  t.equal(after.status, 200);
  t.equal(after.text, exportHeader + exportPart(rows, '2026-03-03'));
  t.equal(after.headers['last-modified'], since);
  t.not(after.headers.etag, etag);
  t.equal(after.headers['content-length'], String(after.body.length), 'the length is unchanged');
  const spliced = await app.call(path, { headers: { range: 'bytes=100-', 'if-range': since } });
  t.equal(spliced.status, 200);
  const asOf = `${path}?asOf=2026-03-02`;
  t.equal((await app.call(asOf, { headers: { 'if-modified-since': since } })).status, 304);
  t.equal((await app.call(asOf)).headers.etag, etag, 'equal bytes have an equal ETag');
  const packed = await app.call(`${base}.csv.gz`);
  t.equal(gunzipSync(packed.body).toString(), after.text);
});

t.test('sends validators but no length or ranges for a file that is not rendered', async t => {
  await app.putEnvironment('fresh', 'pro');
  await app.ingest('fresh', '2026-03-02', ingestBody(rows));
  for (const path of ['today.csv', 'today.csv.gz'].map(
    name => `/v1/environments/fresh/exports/${name}`,
  )) {
    const answer = await app.call(path, { headers: { range: 'bytes=0-1' } });
    t.equal(answer.status, 200);
    t.equal(answer.headers['content-length'], undefined);
    t.equal(answer.headers['accept-ranges'], undefined);
    const { etag = '' } = answer.headers;
    t.equal((await app.call(path, { headers: { 'if-none-match': etag } })).status, 304);
    t.equal((await app.call(path, { headers: { 'if-match': '"x"' } })).status, 412);
    t.equal((await app.call(path, { headers: { range: 'bytes=99999999-' } })).status, 200);
    await renderAll(app);
    const rendered = await app.call(path);
    t.equal(rendered.headers.etag, etag, 'rendering does not change the bytes');
    t.strictSame(rendered.body, answer.body);
    await app.database.pool.query(`delete from rendered_snapshots where environment_id = 'fresh'`);
  }
  const [item] = (await app.call('/v1/environments/fresh/exports')).json.items;
  t.equal(item.sizeBytes, null);
});

t.test('sends a header line with length and ETag for an environment without data', async t => {
  await app.putEnvironment('empty', 'pro');
  const path = '/v1/environments/empty/exports/30-days-daily.csv';
  const answer = await app.call(path);
  t.equal(answer.text, exportHeader);
  t.equal(answer.headers['content-length'], String(exportHeader.length));
  t.equal(answer.headers['last-modified'], undefined);
  const { etag = '' } = answer.headers;
  t.equal((await app.call(path, { headers: { 'if-none-match': etag } })).status, 304);
  const since = { 'if-modified-since': new Date().toUTCString() };
  t.equal((await app.call(path, { headers: since })).status, 200);
  t.equal(
    (await app.call(path, { headers: { range: 'bytes=8-9' } })).text,
    exportHeader.slice(8, 10),
  );
});

t.test('sends the file of a past date for asOf', async t => {
  const today = await app.call(`${base}.csv?asOf=2026-03-01`);
  t.equal(today.text, exportHeader);
  t.equal(today.headers['content-disposition'], 'attachment; filename="acme_today_2026-03-01.csv"');
  const daily = await app.call('/v1/environments/acme/exports/30-days-daily.csv?asOf=2026-03-02');
  t.equal(daily.headers['x-total-rows'], '0');
  for (const query of [
    'today.csv?asOf=2026-03-03',
    '6-months-weekly.csv.gz?asOf=2026-03-03',
    'today.csv?asOf=9999-12-31',
    'today.csv?asOf=2026-02-30',
    'today.csv?asOf=2026-3-1',
    'today.csv?asOf=0001-01-01',
    'today.csv?asOf=1969-12-31',
    'today.csv?asOf=',
    'today.csv?asOf=2026-03-02T00:00:00Z',
    'today.csv?asOf=today',
  ]) {
    const answer = await app.call(`/v1/environments/acme/exports/${query}`);
    t.equal(answer.status, 400, query);
    t.equal(answer.json.errors[0].path, '/query/asOf');
  }
  for (const aggregation of ['today', '30-days-daily', '3-months-weekly', '6-months-weekly']) {
    const path = `/v1/environments/acme/exports/${aggregation}.csv?asOf=1970-01-01`;
    t.equal((await app.call(path)).text, exportHeader);
  }
});

t.test('answers the requests of a browser that resumes a download by link', async t => {
  const url = app.origin + (await linkTo({ aggregation: 'today' }));
  // Browsers request gzip first and unencoded bytes when they resume.
  for (const encoding of ['identity', 'gzip']) {
    const first = await ask(url, { headers: { 'accept-encoding': encoding } });
    const { etag = '' } = first.headers;
    const rest = await ask(url, {
      headers: { 'accept-encoding': 'identity', range: 'bytes=100-', 'if-range': etag },
    });
    if (encoding === 'identity') {
      t.equal(rest.status, 206);
      t.strictSame(Buffer.concat([first.body.subarray(0, 100), rest.body]), csv);
    } else {
      t.equal(rest.status, 200, 'a different representation starts from the beginning');
      t.strictSame(rest.body, csv);
    }
  }
});

/** Downloads that real programs interrupt and resume. */
t.test('resumes downloads that real programs interrupt', async t => {
  t.setTimeout(600_000);

  const authorization = `Authorization: Bearer ${testAdminToken}`;
  const urlOf = (environmentId: string, extension: string) =>
    `${app.origin}/v1/environments/${environmentId}/exports/today.${extension}`;
  const hashOf = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

  async function writeSnapshot(environmentId: string, salt = ''): Promise<void> {
    const snapshot = { environmentId, date: '2026-03-02', rows: 2_000, salt };
    await writeDenseSnapshot(app.database.pool, snapshot);
    await renderAll(app);
  }
  await app.putEnvironment('large', 'pro');
  await writeSnapshot('large');

  /** Starts a program, waits until it has written part of the file and kills it. */
  async function interrupt(
    t: Test,
    file: string,
    name: string,
    args: readonly string[],
  ): Promise<void> {
    const program = startProgram(t, name, args);
    await waitFor(
      'part of the file',
      () => fs.existsSync(file) && fs.statSync(file).size > 100_000,
    );
    program.child.kill('SIGKILL');
    await program.ended;
  }

  t.test('resumes a download by curl with If-Range', needsProgram('curl'), async t => {
    await app.putEnvironment('replaced', 'pro');
    await writeSnapshot('replaced', 'old');
    const folder = t.testdir();
    const downloads: { file: string; size: number; resume: string[] }[] = [];
    for (const extension of ['csv', 'csv.gz']) {
      const url = urlOf('replaced', extension);
      const whole = await app.call(new URL(url).pathname);
      const { etag = '' } = whole.headers;
      const file = path.join(folder, `curl.${extension}`);
      const curl = ['-sS', '--fail', '-H', authorization, '-o', file, url];
      await interrupt(t, file, 'curl', ['--limit-rate', '200k', ...curl]);
      const { size } = fs.statSync(file);
      t.ok(size < whole.body.length);
      const resume = ['-C', '-', '-H', `If-Range: ${etag}`, ...curl];
      const resumed = startProgram(t, 'curl', resume);
      t.equal(await resumed.ended, 0, resumed.stderr());
      t.equal(hashOf(fs.readFileSync(file)), hashOf(whole.body), extension);
      downloads.push({ file, size, resume });
    }

    // If the file was replaced, curl refuses the complete new file at this offset.
    await writeSnapshot('replaced', 'new');
    for (const { file, size, resume } of downloads) {
      fs.truncateSync(file, size);
      const refused = startProgram(t, 'curl', resume);
      t.equal(await refused.ended, 33, 'the server sends no range');
      t.equal(fs.statSync(file).size, size, 'the old file is unchanged');
    }
  });

  /** Starts a proxy that ends its first connection early, as a gateway with a time limit does. */
  async function startCuttingGateway(t: Test) {
    /** Status of the first answer on each connection. */
    const statuses: string[] = [];
    let isCut = false;
    const gateway = net.createServer(socket => {
      const service = net.connect(app.port, '127.0.0.1');
      service.on('error', () => {});
      socket.on('error', () => {}).pipe(service);
      let bytes = 0;
      const pass = async function* (answer: AsyncIterable<Buffer>) {
        for await (const piece of answer) {
          if (bytes === 0) statuses.push(piece.toString('latin1', 9, 12));
          yield piece;
          bytes += piece.length;
          if (isCut || bytes < 100_000) continue;
          isCut = true;
          return;
        }
      };
      pipeline(service, pass, socket).catch(() => {});
    });
    gateway.listen(0, '127.0.0.1');
    await once(gateway, 'listening');
    t.teardown(() => gateway.close());
    const { port } = gateway.address() as AddressInfo;
    return { origin: `http://127.0.0.1:${port}`, statuses };
  }

  t.test('resumes a download by Chromium', needsProgram('chromium'), async t => {
    const browser = await puppeteer.launch({
      executablePath: '/usr/bin/chromium',
      // Root has no sandbox. All traffic stays on this machine.
      args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
      timeout: 120_000,
    });
    t.teardown(() => browser.close());
    const page = await browser.newPage();
    const session = await page.createCDPSession();
    const folder = t.testdir();
    await session.send('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: folder });
    for (const [compression, extension, statuses] of [
      ['gzip', 'csv.gz', ['200', '206']],
      // The browser receives the CSV gzip-encoded, and requests the rest of the unencoded one.
      ['none', 'csv', ['200', '200']],
    ] as const) {
      const whole = (await app.call(new URL(urlOf('large', extension)).pathname)).body;
      const { json } = await app.call('/v1/environments/large/download-links', {
        method: 'POST',
        json: { aggregation: 'today', compression },
      });
      registerSecret(json.url.split('/').at(-1));
      const gateway = await startCuttingGateway(t);
      // Chromium aborts the navigation, because the answer is a download.
      await t.rejects(page.goto(gateway.origin + new URL(json.url).pathname), /ERR_ABORTED/);
      const file = path.join(folder, `large_today_2026-03-02.${extension}`);
      await waitFor('the file', () => fs.existsSync(file));
      await waitFor('its content', () => hashOf(fs.readFileSync(file)) === hashOf(whole));
      t.strictSame(gateway.statuses, statuses, extension);
    }
  });

  t.test('resumes a download by wget', needsProgram('wget'), async t => {
    const folder = t.testdir();
    for (const extension of ['csv', 'csv.gz']) {
      const url = urlOf('large', extension);
      const whole = await app.call(new URL(url).pathname);
      const file = path.join(folder, `wget.${extension}`);
      const wget = ['-q', '--tries=1', `--header=${authorization}`, '-O', file, url];
      await interrupt(t, file, 'wget', ['--limit-rate=200k', ...wget]);
      t.ok(fs.statSync(file).size < whole.body.length);
      const resumed = startProgram(t, 'wget', ['-c', ...wget]);
      t.equal(await resumed.ended, 0, resumed.stderr());
      t.equal(hashOf(fs.readFileSync(file)), hashOf(whole.body), extension);
      const again = startProgram(t, 'wget', ['-c', ...wget]);
      t.equal(await again.ended, 0, 'a complete file is unchanged');
      t.equal(hashOf(fs.readFileSync(file)), hashOf(whole.body), extension);
    }
  });
});
