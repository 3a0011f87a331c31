import { createHash } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import t from 'tap';
import { freePort } from '../../dev/free-port.ts';
import { makeWebhookSecret, signatureHeaders } from '../../src/webhooks/signature.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { needsProgram, startProgram } from '../helpers/programs.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

const examples = path.join(import.meta.dirname, '../../examples');
const app = await startTestApp(t);
await app.putEnvironment('acme');
const { token } = await app.makeKey('acme', ['exports:read', 'snapshots:write']);
const service = (url = app.origin) => ({
  WAREHOUSE_EXPORT_URL: url,
  WAREHOUSE_EXPORT_TOKEN: token,
});

t.test('nightly-load.ts retries a busy service and reports the result', async t => {
  const file = path.join(t.testdir(), 'snapshot.csv');
  fs.writeFileSync(file, ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]));
  const busy = [
    { status: 429, code: 'rate_limited' },
    { status: 409, code: 'conflict' },
    { status: 503, code: 'unavailable' },
  ];
  // Answers as a busy service would, then passes requests to the real one.
  const proxy = http.createServer((request, response) => {
    const answer = busy.shift();
    if (answer !== undefined) {
      request.resume();
      response.writeHead(answer.status, { 'retry-after': '0' });
      return response.end(JSON.stringify({ code: answer.code, detail: '' }));
    }
    const { method, headers, url } = request;
    const forwarded = http.request(`${app.origin}${url}`, { method, headers }, real => {
      response.writeHead(real.statusCode ?? 0, real.headers);
      real.pipe(response);
    });
    return pipeline(request, forwarded);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  t.teardown(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  const origin = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const load = (url: string, date: string) =>
    startProgram(t, process.execPath, [`${examples}/nightly-load.ts`, 'acme', date, file], {
      env: { ...process.env, ...service(url) },
    });

  const loaded = load(origin, '2026-03-01');
  t.equal(await loaded.ended, 0, loaded.stderr());
  t.match(
    loaded.stdout(),
    /: 429 rate_limited.*: 409 conflict.*: 503 unavailable.*Loaded 2 rows of 2026-03-01/s,
  );
  fs.appendFileSync(file, 'broken');
  const refused = load(app.origin, '2026-03-01');
  t.equal(await refused.ended, 1);
  t.match(refused.stderr(), /422 snapshot_invalid.*\n1 errors\. Nothing was changed\./);
});

t.test('receive-webhooks.ts prints each event once', async t => {
  const secret = registerSecret(makeWebhookSecret());
  const port = await freePort();
  const program = startProgram(t, process.execPath, [`${examples}/receive-webhooks.ts`], {
    env: { ...process.env, WEBHOOK_SECRET: secret, PORT: String(port) },
  });
  await waitFor('the start', () => program.stdout().includes('Listening'));
  const event = { type: 'export.recovered', timestamp: '', data: { configName: 'Nightly' } };
  const body = JSON.stringify(event);
  const headers = signatureHeaders(secret, { id: 'msg_1', body }, new Date());
  const send = async (text: string) =>
    (await fetch(`http://127.0.0.1:${port}`, { method: 'POST', headers, body: text })).status;
  t.same([await send(body), await send(body), await send(`${body} `)], [204, 204, 400]);
  await waitFor('the refusal', () => program.stderr().includes('does not match'));
  t.match(program.stdout(), /^Listening on port \d+\nNightly works again\n$/);
});

t.test('resume-download.sh completes an interrupted download', needsProgram('curl'), async t => {
  const snapshot = { environmentId: 'acme', date: '2026-03-02', rows: 2_000 };
  const replace = async (salt: string) => {
    await writeDenseSnapshot(app.database.pool, { ...snapshot, salt });
    await renderAll(app);
  };
  const folder = t.testdir();
  const name = 'today.csv';
  const file = path.join(folder, name);
  const download = () =>
    startProgram(t, 'bash', [`${examples}/resume-download.sh`, 'acme', name], {
      cwd: folder,
      env: { ...process.env, ...service() },
    });
  const hashOf = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
  const expectWhole = async (name: string) => {
    const program = download();
    t.equal(await program.ended, 0, program.stderr());
    const whole = (await app.download('acme', 'today')).body;
    t.equal(hashOf(fs.readFileSync(file)), hashOf(whole), name);
    t.same(fs.readdirSync(folder), ['today.csv'], 'nothing else is left');
  };
  /** Leaves what an interrupted download leaves. */
  const interrupt = async () => {
    const { headers } = await app.download('acme', 'today');
    fs.truncateSync(file, 1000);
    fs.writeFileSync(`${file}.etag`, `${headers.etag}\n`);
  };

  await replace('first');
  await expectWhole('a new download');
  await interrupt();
  const sent = app.log.length;
  await expectWhole('the rest');
  t.match(JSON.stringify(app.log.slice(sent)), /"statusCode":206/, 'only the rest was sent');
  await interrupt();
  await replace('second');
  await expectWhole('a file that was replaced');
});
