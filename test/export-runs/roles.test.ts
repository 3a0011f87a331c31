import t from 'tap';
import { startTestApp } from '../helpers/app.ts';

t.test('serves only health and metrics routes in a worker process', async t => {
  const app = await startTestApp(t, { env: { PROCESS_ROLE: 'worker' } });
  t.equal((await app.call('/health/live', { token: null })).status, 200);
  t.equal((await app.call('/health/ready', { token: null })).status, 200);
  t.equal((await app.call('/metrics', { token: null })).status, 200);
  t.equal((await app.call('/v1/environments')).status, 404);
});
