import http from 'node:http';
import t from 'tap';
import { requestTurnsOptions } from '../../src/dependencies.ts';
import { createRequestTurns } from '../../src/environments/auth/request-turns.ts';
import { startTestApp } from '../helpers/app.ts';

t.test('answers an environment during the burst of another one', async t => {
  const app = await startTestApp(t, {
    adjust: dependencies => ({
      ...dependencies,
      // On a busy machine the last requests of the burst may wait for longer than the limit.
      requestTurns: createRequestTurns({ ...requestTurnsOptions, now: () => 0 }),
    }),
  });
  for (const id of ['loud', 'quiet']) await app.putEnvironment(id, 'pro');
  const keyOf = async (id: string) => (await app.makeKey(id, ['exports:read'])).token;
  const [loud, quiet] = [await keyOf('loud'), await keyOf('quiet')];
  const agent = new http.Agent({ keepAlive: true });
  t.teardown(() => agent.destroy());
  let ended = 0;
  const list = async (id: string, token: string) => {
    const { status } = await app.call(`/v1/environments/${id}/exports`, { token, agent });
    ended += 1;
    return status;
  };
  const count = 120;
  const burst = () => Array.from({ length: count }, () => list('loud', loud));
  // Opens connections, so that the requests below arrive in their order.
  t.ok((await Promise.all([...burst(), list('quiet', quiet)])).every(status => status === 200));
  ended = 0;
  const requests = burst();
  t.equal(await list('quiet', quiet), 200);
  t.ok(ended < count / 3, `${ended} were answered before`);
  t.ok((await Promise.all(requests)).every(status => status === 200));
});

t.test('limits the requests that wait and their time', async t => {
  let nowMs = 0;
  const turns = createRequestTurns({ perGroup: 1, waiting: 2, waitMs: 50, now: () => nowMs });
  const { promise, resolve } = Promise.withResolvers<string>();
  const refusal = { code: 'rate_limited', headers: { 'retry-after': '1' } };
  const first = turns.run('acme', () => promise);
  const waiting = [1, 2].map(() => turns.run('acme', async () => 'too late'));
  const refused = waiting.map(answer => t.rejects(answer, refusal));
  await t.rejects(
    turns.run('acme', async () => 'too many'),
    refusal,
  );
  t.equal(await turns.run('other', async () => 'other'), 'other');
  nowMs = 51;
  resolve('first');
  t.equal(await first, 'first');
  await Promise.all(refused);
  t.equal(await turns.run('acme', async () => 'next'), 'next');
});
