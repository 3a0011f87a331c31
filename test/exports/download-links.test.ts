import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp, testNow } from '../helpers/app.ts';
import { ask } from '../helpers/http-client.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { registerSecret, testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

const app = await startTestApp(t);
const rows = [adoptionRow()];
const file = exportHeader + exportPart(rows, '2026-03-02');
await app.putEnvironment('acme', 'pro');
await app.putEnvironment('other', 'enterprise');
await app.ingest('acme', '2026-03-01', ingestBody(rows));
await app.ingest('other', '2026-03-01', ingestBody([adoptionRow({ companyName: 'Of another' })]));

interface Link {
  readonly url: string;
  readonly expiresAt: string;
  readonly rowCount: number;
  readonly sizeBytes: number | null;
}

async function makeLink(
  token?: string,
  json: object = { aggregation: 'today' },
  environment = 'acme',
): Promise<Link> {
  const answer = await app.call(`/v1/environments/${environment}/download-links`, {
    method: 'POST',
    json,
    ...(token === undefined ? {} : { token }),
  });
  if (answer.status !== 201) throw new Error(answer.text);
  registerSecret(answer.json.url.split('/').at(-1));
  return answer.json;
}

const after = (seconds: number) => new Date(Date.parse(testNow) + seconds * 1_000).toISOString();

t.afterEach(() => app.setNow(testNow));

t.test('downloads the file by link repeatedly without an authorization header', async t => {
  const link = await makeLink();
  t.ok(link.url.startsWith(`${app.origin}/v1/downloads/`));
  t.equal(link.expiresAt, after(300));
  for (let count = 1; count <= 2; count += 1) {
    const answer = await ask(link.url);
    t.equal(answer.status, 200);
    t.equal(answer.text, file);
    t.equal(
      answer.headers['content-disposition'],
      'attachment; filename="acme_today_2026-03-02.csv"',
    );
    t.equal(answer.headers['cache-control'], 'private, no-cache');
    t.equal(answer.headers['x-total-rows'], '1');
  }
  const head = await ask(link.url, { method: 'HEAD' });
  t.equal(head.status, 200);
  t.equal(head.headers['x-total-rows'], '1');
  t.equal(head.body.length, 0);
});

t.test('sends gzip as a file or as content encoding', async t => {
  const { url } = await makeLink(undefined, { aggregation: 'today', compression: 'gzip' });
  const answer = await ask(url);
  t.equal(answer.headers['content-type'], 'application/gzip');
  t.notOk(answer.headers['content-encoding']);
  t.equal(gunzipSync(answer.body).toString(), file);
  const onTheWay = await ask((await makeLink()).url, { headers: { 'accept-encoding': 'gzip' } });
  t.equal(onTheWay.headers['content-encoding'], 'gzip');
  t.equal(gunzipSync(onTheWay.body).toString(), file);
});

t.test('rejects an expired link, to the second', async t => {
  for (const expiresInSeconds of [60, 300, 3600]) {
    const { url, expiresAt } = await makeLink(undefined, {
      aggregation: 'today',
      expiresInSeconds,
    });
    t.equal(expiresAt, after(expiresInSeconds));
    app.setNow(after(expiresInSeconds - 1));
    t.equal((await ask(url)).status, 200);
    app.setNow(after(expiresInSeconds));
    const late = await ask(url);
    t.equal(late.status, 401);
    t.equal(late.json.code, 'unauthenticated');
    app.setNow(testNow);
  }
});

t.test('rejects invalid bodies of link requests', async t => {
  for (const [json, path] of [
    [{}, '/aggregation'],
    [{ aggregation: 'yesterday' }, '/aggregation'],
    [{ aggregation: 'today', expiresInSeconds: 59 }, '/expiresInSeconds'],
    [{ aggregation: 'today', expiresInSeconds: 3601 }, '/expiresInSeconds'],
    [{ aggregation: 'today', expiresInSeconds: 60.5 }, '/expiresInSeconds'],
    [{ aggregation: 'today', expiresInSeconds: '300' }, '/expiresInSeconds'],
    [{ aggregation: 'today', compression: 'br' }, '/compression'],
    [{ aggregation: 'today', environmentId: 'other' }, '/environmentId'],
    [{ aggregation: 'today', format: 'xlsx' }, '/format'],
    [{ aggregation: 'today', asOf: '2026-03-03' }, '/asOf'],
    [{ aggregation: 'today', asOf: '2026-02-30' }, '/asOf'],
    [{ aggregation: 'today', asOf: '0001-01-01' }, '/asOf'],
    [{ aggregation: 'today', asOf: null }, '/asOf'],
  ] as const) {
    const answer = await app.call('/v1/environments/acme/download-links', { method: 'POST', json });
    t.equal(answer.status, 400, JSON.stringify(json));
    t.equal(answer.json.errors[0].path, path);
  }
});

t.test('rejects a token with any changed, removed or added character', async t => {
  const { url } = await makeLink();
  const start = url.lastIndexOf('/') + 1;
  const statuses = new Map<number, number>();
  for (let at = start; at < url.length; at += 1) {
    const old = url[at] ?? '';
    const changes = [old === 'A' ? 'B' : 'A', old === '.' ? '-' : '.', ''];
    const other = changes[at % changes.length] ?? '';
    const { status } = await ask(url.slice(0, at) + other + url.slice(at + 1));
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    // The last character of the signature has unused bits. A change of those alone has no effect.
    if (status !== 401 && !(at === url.length - 1 && status === 200))
      t.fail(`${status} at ${at - start}`);
  }
  t.ok((statuses.get(401) ?? 0) >= url.length - start - 1);
  for (const token of ['x', 'a.b.c', '...', 'x'.repeat(2000), `${url.slice(start)}x`, 'e30.e30.']) {
    t.equal((await ask(`${app.origin}/v1/downloads/${token}`)).status, 401, token.slice(0, 10));
  }
  t.equal((await ask(`${app.origin}/v1/downloads/${'x'.repeat(2001)}`)).status, 400);
});

t.test('rejects tokens with a forged header, payload or signature', async t => {
  const { SignJWT, base64url } = await import('jose');
  const token = (await makeLink()).url.split('/').at(-1) ?? '';
  const [header = '', payload = '', signature = ''] = token.split('.');
  const part = (value: object) => base64url.encode(JSON.stringify(value));
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString());
  const kid = JSON.parse(Buffer.from(header, 'base64url').toString()).kid;
  const wrongSecret = await new SignJWT(claims)
    .setProtectedHeader({ alg: 'HS256', kid })
    .sign(new TextEncoder().encode('x'.repeat(32)));
  const forged = [
    `${part({ alg: 'none' })}.${payload}.`,
    `${part({ alg: 'none', kid })}.${payload}.${signature}`,
    `${part({ alg: 'HS512', kid })}.${payload}.${signature}`,
    `${part({ alg: 'RS256', kid })}.${payload}.${signature}`,
    `${part({ alg: 'HS256', kid: 'other' })}.${payload}.${signature}`,
    `${part({ alg: 'HS256' })}.${payload}.${signature}`,
    `${header}.${part({ ...claims, sub: 'other' })}.${signature}`,
    `${header}.${part({ ...claims, exp: claims.exp + 3600 })}.${signature}`,
    wrongSecret,
  ];
  for (const [index, candidate] of forged.entries()) {
    t.equal(
      (await ask(`${app.origin}/v1/downloads/${candidate}`)).status,
      401,
      `forgery ${index + 1}`,
    );
  }
});

t.test('rejects a link whose API key was revoked, expired or lost its scope', async t => {
  const revoked = await app.makeKey('acme', ['exports:read']);
  const link = await makeLink(revoked.token);
  t.equal((await ask(link.url)).status, 200);
  const others = await makeLink((await app.makeKey('acme', ['exports:write'])).token);
  await app.call(`/v1/environments/acme/api-keys/${revoked.id}`, { method: 'DELETE' });
  t.equal((await ask(link.url)).status, 401);
  t.equal((await ask(others.url)).status, 200, 'a link of another key still works');

  const expiring = await app.makeKey('acme', ['exports:read'], after(120));
  const { url } = await makeLink(expiring.token, { aggregation: 'today', expiresInSeconds: 3600 });
  app.setNow(after(119));
  t.equal((await ask(url)).status, 200);
  app.setNow(after(120));
  t.equal((await ask(url)).status, 401);
  app.setNow(testNow);

  const narrowed = await app.makeKey('acme', ['exports:read']);
  const narrow = await makeLink(narrowed.token);
  await app.database.pool.query(`update api_keys set scopes = '{snapshots:write}' where id = $1`, [
    narrowed.id,
  ]);
  const refused = await ask(narrow.url);
  t.equal(refused.status, 403);
  t.equal(refused.json.code, 'insufficient_scope');
});

t.test('rejects a link while the plan of its environment is too low', async t => {
  const { url } = await makeLink();
  await app.putEnvironment('acme', 'free');
  const refused = await ask(url);
  t.equal(refused.status, 403);
  t.match(refused.json, {
    code: 'plan_upgrade_required',
    currentPlan: 'free',
    requiredPlan: 'pro',
  });
  await app.putEnvironment('acme', 'enterprise');
  t.equal((await ask(url)).status, 200);
});

t.test('rejects a link after its environment was deleted', async t => {
  await app.putEnvironment('gone', 'pro');
  await app.ingest('gone', '2026-03-01', ingestBody(rows));
  const key = await app.makeKey('gone', ['exports:read']);
  const links = [
    await makeLink(undefined, undefined, 'gone'),
    await makeLink(key.token, undefined, 'gone'),
  ];
  for (const { url } of links) t.equal((await ask(url)).status, 200);
  await app.call('/v1/environments/gone', { method: 'DELETE' });
  for (const { url } of links) t.equal((await ask(url)).status, 401);
  await app.putEnvironment('gone', 'pro');
  for (const { url } of links) {
    t.equal(
      (await ask(url)).status,
      401,
      'a later environment with the same id is a different one',
    );
  }
  await app.call('/v1/environments/gone', { method: 'DELETE' });
});

t.test('reports the size of the file and pins the requested date', async t => {
  const key = await app.makeKey('acme', ['exports:read']);
  const past = await makeLink(key.token, {
    aggregation: 'today',
    asOf: '2026-03-01',
    format: 'csv',
  });
  t.match(past, { rowCount: 1 });
  const answer = await ask(past.url);
  t.equal(answer.text, exportHeader + exportPart(rows, '2026-03-01'));
  t.equal(
    answer.headers['content-disposition'],
    'attachment; filename="acme_today_2026-03-01.csv"',
  );
  const none = await makeLink(key.token, { aggregation: 'today', asOf: '2026-02-28' });
  t.strictSame([none.rowCount, none.sizeBytes], [0, exportHeader.length]);
  t.equal((await ask(none.url)).text, exportHeader);
  app.setNow('2026-03-03T00:00:00.000Z');
  const later = await makeLink(key.token, { aggregation: 'today', asOf: '2026-03-01' });
  t.equal((await ask(later.url)).text, answer.text, 'the date is fixed');
});

t.test('logs no token of a valid link, even when the URL is mistyped', async t => {
  const { url } = await makeLink();
  const token = url.split('/').at(-1) ?? '';
  const pathsBefore = app.log.length;
  for (const path of [
    `/v1/downloads/${token}`,
    `/v1/downloads/${token}x`,
    `/v1/downloads/${token}?a=b`,
    `//v1/downloads/${token}`,
    `/v1//downloads/${token}`,
    `/V1/Downloads/${token}`,
    `/v1/downloads?token=${token}`,
    `/v1/downloads/${token}/`,
    `/v1/downloads/${token}.csv`,
    `/v1/downloads/${token.replaceAll('.', '%2E')}/x`,
    `/v1/downloads/${token}%zz`,
    `/v1/environments/${token}`,
  ]) {
    await ask(app.origin + path);
    // Aborts a second request: the service logs its error with the URL.
    const connection = await connectRaw(app.port);
    connection.socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    connection.socket.resetAndDestroy();
    await connection.closed;
  }
  await waitFor('lines in the log', () => app.log.length > pathsBefore + 8);
  const lines = JSON.stringify(app.log);
  t.notOk(lines.includes(token.slice(-40)));
  t.notOk(lines.includes(token.slice(0, 80)));
});

t.test('names the maker of a link in the log lines of its downloads', async t => {
  const { pool } = app.database;
  const key = await app.makeKey('acme', ['exports:read']);
  const links = [await makeLink(key.token), await makeLink()];
  await pool.query('alter table snapshots rename to hidden_snapshots');
  const answers = await Promise.all(links.map(({ url }) => ask(url)));
  await pool.query('alter table hidden_snapshots rename to snapshots');
  const callers = answers.map(({ headers }) => {
    const lines = app.log.filter(line => line['requestId'] === headers['x-request-id']);
    return lines.find(line => line['msg'] === 'request failed')?.['caller'];
  });
  t.strictSame(callers, [{ kind: 'api-key', id: key.id }, { kind: 'operator' }]);
});

t.test('rejects a link request without a Host header', async t => {
  const body = '{"aggregation":"today"}';
  const connection = await connectRaw(app.port);
  connection.socket.write(
    `POST /v1/environments/acme/download-links HTTP/1.0\r\nAuthorization: Bearer ${testAdminToken}\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  await connection.closed;
  const received = connection.received().toString();
  t.match(received, /^HTTP\/1\.1 400 .*"code":"validation_failed".*"path":"\/headers\/host"/s);
});
