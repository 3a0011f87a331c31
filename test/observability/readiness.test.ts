import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { connectRaw, eventually } from '../helpers/raw-http.ts';

t.test('answers 1,000 pipelined readiness probes with a few database queries', async t => {
  let queries = 0;
  const app = await startTestApp(t, {
    adjust: dependencies => {
      dependencies.pools.api.on('acquire', () => {
        queries += 1;
      });
      return dependencies;
    },
  });
  const probes = 1_000;
  const connection = await connectRaw(app.port);
  t.teardown(() => connection.socket.destroy());
  connection.socket.write('GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(probes));
  const started = performance.now();
  const answered = () => connection.received().toString('latin1').split('HTTP/1.1 200 ').length - 1;
  await eventually(() => answered() === probes, 'every probe', 120_000);
  const seconds = (performance.now() - started) / 1000;
  t.ok(queries <= seconds + 2, `${queries} look-ups in ${seconds} s`);
});
