import t from 'tap';
import { maxApiKeys } from '../../../src/environments/auth/api-keys-repository.ts';
import { startTestApp } from '../../helpers/app.ts';
import { registerSecret } from '../../helpers/secrets.ts';

const app = await startTestApp(t);
const path = (id: string) => `/v1/environments/${id}/api-keys`;

async function create(id: string) {
  const json = { name: 'one of many', scopes: ['exports:read'] };
  const answer = await app.call(path(id), { method: 'POST', json });
  if (answer.status === 201) registerSecret(answer.json.key);
  return answer;
}

t.test('limits an environment to 100 API keys, also under concurrent creation', async t => {
  await app.putEnvironment('acme');
  await app.putEnvironment('other');
  await app.database.pool.query(
    `insert into api_keys (environment_id, id, name, scopes, secret_hash)
     select 'acme', 'k' || n, 'x', '{exports:read}', sha256(n::text::bytea)
     from generate_series(1, $1) n`,
    [maxApiKeys - 2],
  );
  const answers = await Promise.all(Array.from({ length: 10 }, () => create('acme')));
  t.equal(answers.filter(({ status }) => status === 201).length, 2);
  const refused = answers.filter(({ status }) => status === 409);
  t.equal(refused.length, 8);
  for (const { json } of refused) {
    t.match(json, { code: 'conflict', detail: /at most 100 API keys.*Revoke one first/ });
  }
  t.equal((await create('other')).status, 201, 'another environment can still create keys');

  const revoked = await app.call(`${path('acme')}/k1`, { method: 'DELETE' });
  t.equal(revoked.status, 204);
  t.equal((await create('acme')).status, 201);
  t.equal((await create('acme')).status, 409);
});
