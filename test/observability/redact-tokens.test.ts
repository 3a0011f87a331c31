import t from 'tap';
import { redactLine, redactTokens, redactUrl } from '../../src/observability/redact-tokens.ts';

const header = 'eyJhbGciOiJIUzI1NiIsImtpZCI6ImZpcnN0In0';
const payload =
  'eyJhZ2ciOiJ0b2RheSIsImd6IjpmYWxzZSwiZGF5IjpudWxsfQeyJhZ2ciOiJ0b2RheSIsImd6IjpmYWxzZSwiZGF5IjpudWxsfQ';
const signature = 'c2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJlc2lnbmE';
const link = `${header}.${payload}.${signature}`;
const apiKey = `whx_${'0'.repeat(16)}_${'a'.repeat(64)}`;
const operatorToken = 'operator-token-of-32-characters!';

t.test('redacts a token in every position of a URL', async t => {
  const encoded = link.replaceAll('.', '%2E').replace('e', '%65');
  for (const token of [link, apiKey, encoded, `${link}.csv`]) {
    for (const url of [
      `/v1/downloads/${token}`,
      `//v1/downloads/${token}`,
      `/v1//downloads/${token}`,
      `/V1/Downloads/${token}`,
      `/v1/downloads/${token}/`,
      `/v1/downloads/${token}?a=b`,
      `/v1/downloads?token=${token}`,
      `/v1/downloads/?${token}`,
      `/v1/downloads/%20${token}`,
      `/v1/downloads/${token}#x`,
      `/v1/download/${token}`,
      `/${token}`,
      `http://x/v1/downloads/${token}`,
      `/?a=1&next=/v1/downloads/${token}&b=2`,
    ]) {
      const shown = redactUrl(url);
      t.notMatch(shown, /whx_|eyJ|%65yJ|c2lnbmF0dXJl/, url);
      t.match(shown, '[redacted]', url);
    }
  }
  t.equal(
    redactUrl(`/v1/environments?token=${operatorToken}`),
    '/v1/environments?token=[redacted]',
  );
});

t.test('redacts an API key that is short, truncated or split', async t => {
  const secret = 'a1'.repeat(32);
  for (const url of [
    `/v1/environments/${apiKey.slice(0, 60)}`,
    `/v1/environments/whx_${'0'.repeat(16)}/${secret}`,
    `/v1/${secret}?${apiKey.slice(0, 28)}`,
    `/v1/${apiKey.replace('whx_', 'whx%5F').slice(0, 40)}`,
    `/v1/${apiKey.replace('w', '%77').slice(0, 40)}`,
    `/v1/environments?key=${apiKey.slice(0, 20)}`,
  ]) {
    const shown = redactUrl(url);
    t.notMatch(shown, /whx|a1a1|0000/, url);
    t.match(shown, '[redacted]', url);
  }
});

t.test('redacts the operator token in every position and encoding of a URL', async t => {
  for (const token of ['operator-token-of-32-characters!', 'a/b+c=d?e&f#g%41h"i\\jklmnopqrstuvw']) {
    const everyByte = Array.from(
      Buffer.from(token),
      byte => `%${byte.toString(16).padStart(2, '0')}`,
    ).join('');
    for (const form of [
      token,
      encodeURIComponent(token),
      encodeURIComponent(token).toLowerCase(),
      encodeURIComponent(encodeURIComponent(token)),
      encodeURI(token),
      everyByte,
      everyByte.toUpperCase(),
    ]) {
      for (const url of [
        `/v1/environments/${form}`,
        `/${form}/x`,
        `/v1/environments/x${form}.csv`,
        `/v1/environments?token=${form}`,
        `/v1/environments?${form}`,
      ]) {
        const shown = redactUrl(url, [token]);
        t.match(shown, '[redacted]', url);
        t.notOk(decodeURIComponent(decodeURIComponent(shown)).includes(token), url);
        t.notMatch(shown, /characters|klmnop|%6b%6c%6d/i, url);
      }
    }
  }
});

t.test('redacts secrets and API keys anywhere in a line', async t => {
  const token = 'a/b+c"d\\efghijklmnopqrstuvwxyz12345';
  const line = JSON.stringify({ a: `x${token}y`, b: { c: [apiKey, encodeURIComponent(token)] } });
  t.strictSame(JSON.parse(redactLine(line, [token])), {
    a: 'x[redacted]y',
    b: { c: ['[redacted]', '[redacted]'] },
  });
});

t.test('leaves a URL without a token unchanged', async t => {
  for (const url of [
    '/',
    '/v1/environments/acme/exports/30-days-daily.csv.gz?asOf=2026-03-02',
    `/v1/environments/env-${'e'.repeat(60)}/export-configs/0e9f6a52-7f0d-4c5b-9a3e-3f3d5b0c8a11/runs`,
    '/v1/100%/%zz?limit=%',
    '/v1/audit-log?action=failure_webhook.secret_rotated&limit=100',
  ]) {
    t.equal(redactUrl(url), url);
  }
});

t.test('cuts a long URL', async t => {
  t.equal(
    redactUrl(`/${'a/'.repeat(5_000)}`),
    `/${'a/'.repeat(5_000)}`.slice(0, 2_000).concat('…'),
  );
});

t.test('redacts tokens in a text that quotes a URL', async t => {
  t.equal(
    redactTokens(`'/v1/downloads/${link}%zz' is not a valid url component`),
    `'/v1/downloads/[redacted]%zz' is not a valid url component`,
  );
  t.equal(redactTokens(`no ${apiKey}, no ${link}`), 'no [redacted], no [redacted]');
  const stack = 'at file:///app/node_modules/fastify/lib/content-type-parser.js:12:3';
  t.equal(redactTokens(stack), stack);
});

t.test('takes time in proportion to the length', async t => {
  const startedAt = process.cpuUsage();
  for (const text of [
    'a'.repeat(100_000),
    'a.'.repeat(50_000),
    'eyJ'.repeat(30_000),
    '%25'.repeat(30_000),
  ]) {
    redactUrl(`/${text}`, [operatorToken]);
    redactTokens(text);
    redactLine(text, [operatorToken]);
  }
  const { user } = process.cpuUsage(startedAt);
  t.ok(user < 200_000, `${user} µs of CPU time`);
});
