import t from 'tap';
import { exchange } from '../faults/raw-exchange.ts';
import { startTestApp } from '../helpers/app.ts';

const app = await startTestApp(t);

const ask = async (path: string, ...headers: string[]) => {
  const lines = [`GET ${path} HTTP/1.1`, ...headers, 'Connection: close', '', ''];
  const { answers } = await exchange(app.port, [lines.join('\r\n')]);
  return answers[0];
};

t.test('accepts one Host header', async t => {
  t.equal((await ask('/health/live', 'Host: a.example'))?.status, 200);
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
