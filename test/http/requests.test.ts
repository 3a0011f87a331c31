import t from 'tap';
import { exchange } from '../faults/raw-exchange.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { connectRaw } from '../helpers/raw-http.ts';

/** Rules for requests that hold before any route. */

const app = await startTestApp(t);
await app.putEnvironment('acme');

const ask = async (path: string, ...headers: string[]) => {
  const lines = [`GET ${path} HTTP/1.1`, ...headers, 'Connection: close', '', ''];
  const { answers } = await exchange(app.port, [lines.join('\r\n')]);
  return answers[0];
};

t.test('accepts one Host header that names a host', async t => {
  for (const host of [
    'a.example',
    'a_b.example:80',
    'a:65535',
    'a:00080',
    'a:',
    '127.0.0.1:3000',
    '[::1]',
    '[::1]:3000',
    '[::ffff:127.0.0.1]',
    '',
  ]) {
    t.equal((await ask('/health/live', `Host: ${host}`))?.status, 200, host);
  }
});

t.test('refuses a Host header that does not name a host', async t => {
  for (const host of [
    'a:65536',
    'a:99999',
    'a:100000',
    'a:8o',
    'a:-1',
    'a:80:80',
    ':80',
    'user@a',
    'user:password@a',
    'a b',
    'a,b',
    'a/b',
    'a?b',
    'a#b',
    'a\\b',
    'a%2fb',
    '::1',
    '[::1',
    '[]',
    '[:::]',
    '[1]',
    '[1.2.3.4]',
    '[::1]a',
    '[fe80::1%eth0]',
    '[v1.a]',
    'é',
    'http://a',
  ]) {
    const answer = await ask('/health/live', `Host: ${host}`);
    t.equal(answer?.status, 400, host);
    t.match(answer?.headers['content-type'], /^application\/problem\+json/, host);
    t.match(JSON.parse(answer?.body.toString() ?? ''), { code: 'validation_failed' }, host);
  }
});

t.test('refuses a request with several Host headers', async t => {
  for (const headers of [
    ['Host: a.example', 'Host: b.example'],
    ['Host: a.example', 'Host: a.example'],
    ['Host: a.example', 'host: b.example', 'HOST: c.example'],
    ['Host: a.example', 'Host:'],
    ['Host:', 'Host: a.example'],
  ]) {
    for (const path of ['/health/live', '/v1/environments', '/nothing']) {
      const answer = await ask(path, ...headers);
      t.equal(answer?.status, 400, `${path} ${headers}`);
      t.match(JSON.parse(answer?.body.toString() ?? ''), { code: 'validation_failed' });
    }
  }
});

t.test('refuses HTTP/1.1 without a Host header, and accepts HTTP/1.0 without one', async t => {
  t.equal((await ask('/health/live'))?.status, 400);
  const { answers } = await exchange(app.port, ['GET /health/live HTTP/1.0\r\n\r\n']);
  t.equal(answers[0]?.status, 200);
});

t.test('ignores an unknown expectation', async t => {
  t.equal((await ask('/health/live', 'Host: x', 'Expect: a miracle'))?.status, 200);
});

const lists = [
  '/v1/environments',
  '/v1/audit-log',
  '/v1/environments/acme/api-keys',
  '/v1/environments/acme/snapshots',
  '/v1/environments/acme/export-configs',
];

t.test('accepts a limit in decimal digits', async t => {
  for (const path of lists) {
    for (const limit of ['1', '50', '100', '007']) {
      t.equal((await app.call(`${path}?limit=${limit}`)).status, 200, `${path} ${limit}`);
    }
  }
});

t.test('refuses a limit that is not in decimal digits', async t => {
  for (const path of lists) {
    for (const limit of [
      ...['1.5', '1.0', '0x10', '1e2', '%205', '5%20', '%2B5', '', '-1', '0', '101', 'ten', 'true'],
      ...['%D9%A1', '0b1', '0o7', '1_0', '1,0', 'Infinity', 'null', '99999999999999999999', '%00'],
    ]) {
      const answer = await app.call(`${path}?limit=${limit}`);
      t.equal(answer.status, 400, `${path} ${limit}`);
      t.equal(answer.json.code, 'validation_failed');
      t.equal(answer.json.errors[0]?.path, '/query/limit', `${path} ${limit} ${answer.text}`);
    }
    t.equal((await app.call(`${path}?limit=5&limit=6`)).status, 400, `${path} twice`);
    t.equal((await app.call(`${path}?limit`)).status, 400, `${path} without a value`);
  }
});

t.test('closes a connection without a request at shutdown, and answers a request', async t => {
  const other = await startApp(t, { databaseUrl: app.database.url });
  const unused = await connectRaw(other.port);
  const started = await connectRaw(other.port);
  started.socket.write('GET /health/live HTTP/1.1\r\n');
  // The service has accepted both connections before this one.
  await other.call('/health/live');
  const closed = other.app.close();
  await unused.closed;
  t.equal(unused.received().length, 0, 'not after a time limit, which would answer 408');
  started.socket.write('Host: x\r\n\r\n');
  await started.closed;
  t.match(started.received().toString(), /^HTTP\/1\.1 200 /);
  await closed;
});
