import t from 'tap';
import { exchange } from '../faults/raw-exchange.ts';
import { startTestApp } from '../helpers/app.ts';

const app = await startTestApp(t);

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
