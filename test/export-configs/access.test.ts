import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { inSeconds, makeIssuerKey, startIssuer } from '../helpers/issuer.ts';
import { testAdminToken } from '../helpers/secrets.ts';

/**
 * Permissions of the routes for automatic exports. Calls every route as every kind of caller on
 * every plan.
 */

const issuer = await startIssuer(t);
const issuerKey = await makeIssuerKey('ec');
await issuer.publish(issuerKey);
const app = await startTestApp(t, { env: issuer.env });
const { pool } = app.database;

interface Rule {
  readonly needs: 'exports:read' | 'exports:write';
  /** True if the plan must be `enterprise`. */
  readonly gated: boolean;
  /** Status for a caller with permission. No server listens at the endpoints in the bodies. */
  readonly status: number;
  readonly body?: object;
}

const read = { needs: 'exports:read', gated: false, status: 200 } as const;
const write = { needs: 'exports:write', gated: true } as const;
const body = {
  name: 'Nightly',
  schedule: 'daily',
  provider: 'custom',
  endpoint: 'https://127.0.0.1',
  bucket: 'acme',
  region: 'eu',
  key: 'elsewhere',
  accessKeyId: 'id',
  secretAccessKey: 'not-a-real-secret',
};

const configs = '/v1/environments/{environmentId}/export-configs';
const rules: Readonly<Record<string, Rule>> = {
  [`GET ${configs}`]: read,
  [`POST ${configs}`]: { ...write, body, status: 422 },
  [`POST ${configs}/validate`]: { ...write, body, status: 200 },
  [`GET ${configs}/{configId}`]: read,
  [`PATCH ${configs}/{configId}`]: { ...write, body: { name: 'Daily' }, status: 200 },
  [`POST ${configs}/{configId}/validate`]: { ...write, status: 500 },
  [`GET ${configs}/{configId}/status`]: read,
  [`POST ${configs}/{configId}/runs`]: { ...write, status: 404 },
  [`GET ${configs}/{configId}/runs`]: read,
  [`GET ${configs}/{configId}/runs/{runId}`]: read,
  [`POST ${configs}/{configId}/runs/{runId}/retry`]: { ...write, status: 409 },
  [`POST ${configs}/{configId}/runs/{runId}/cancel`]: {
    needs: 'exports:write',
    gated: false,
    status: 409,
  },
  'GET /v1/environments/{environmentId}/runs/{runId}': read,
  [`POST ${configs}/{configId}/backfills`]: {
    ...write,
    body: { from: '2026-03-01', to: '2026-03-02' },
    status: 202,
  },
  [`GET ${configs}/{configId}/backfills`]: read,
  [`GET ${configs}/{configId}/backfills/{backfillId}`]: { ...read, status: 404 },
  [`POST ${configs}/{configId}/backfills/{backfillId}/cancel`]: {
    needs: 'exports:write',
    gated: false,
    status: 404,
  },
  // Keep last: it deletes the config that the other rules read.
  [`DELETE ${configs}/{configId}`]: { needs: 'exports:write', gated: false, status: 204 },
};

t.test('checks every documented route of export configs and runs', async t => {
  const { paths } = app.app.swagger() as { paths: Record<string, Record<string, unknown>> };
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map(method => `${method.toUpperCase()} ${path}`),
  );
  const mine = routes.filter(route => /\}\/export-configs|\/runs\//.test(route));
  t.strictSame(mine.sort(), Object.keys(rules).sort());
});

t.test('answers each caller of each route according to scope, environment and plan', async t => {
  await app.putEnvironment('stranger');
  const foreign = await app.makeKey('stranger', ['exports:write']);
  const scopes = ['exports:read', 'exports:write', 'snapshots:write'] as const;
  for (const plan of ['free', 'pro', 'enterprise'] as const) {
    const environment = `on-${plan}`;
    await app.putEnvironment(environment, plan);
    const keys = await Promise.all(scopes.map(scope => app.makeKey(environment, [scope])));
    const user = (claims: object) =>
      issuer.token(issuerKey, { environments: environment, scope: 'exports:write', ...claims });
    const users = await Promise.all(scopes.map(scope => user({ scope })));
    for (const [route, rule] of Object.entries(rules)) {
      const [method = '', template = ''] = route.split(' ');
      await restore(environment);
      const call = async (token: string | null, environmentId = environment) => {
        const path = template
          .replace('{environmentId}', environmentId)
          .replace('{configId}', `config-${environment}`)
          .replace('{runId}', `run-${environment}`)
          .replace('{backfillId}', 'no-such');
        const answer = await app.call(path, {
          method,
          token,
          ...(rule.body && { json: rule.body }),
        });
        if (method !== 'GET' && answer.status < 300) await restore(environment);
        return answer;
      };
      const expect = async (
        who: string,
        token: string | null,
        status: number,
        code: string | null,
        at?: string,
      ) => {
        const answer = await call(token, at);
        t.equal(answer.status, status, `${route} on ${plan}: ${who}`);
        if (code !== null) t.equal(answer.json.code, code, `${route} on ${plan}: ${who}`);
      };
      // The free plan includes the fewest routes, so a plan check before the caller fails here.
      if (plan === 'free') {
        await expect('no token', null, 401, 'unauthenticated');
        await expect(
          'an unknown key',
          `whx_${'0'.repeat(16)}_${'0'.repeat(64)}`,
          401,
          'unauthenticated',
        );
        await expect('a key of another environment', foreign.token, 404, 'not_found');
        await expect(
          'a user of another environment',
          await user({ environments: 'stranger' }),
          404,
          'not_found',
        );
        await expect('an expired user', await user({ exp: inSeconds(0) }), 401, 'unauthenticated');
      }
      for (const [index, scope] of scopes.entries()) {
        const has =
          scope === rule.needs || (scope === 'exports:write' && rule.needs === 'exports:read');
        // A route without a plan needs only its allowed callers on the other plans.
        if (!has && !rule.gated && plan !== 'free') continue;
        for (const [who, token] of [
          [`a key with ${scope}`, keys[index]?.token ?? ''],
          [`a user with ${scope}`, users[index] ?? ''],
        ] as const) {
          if (!has) await expect(who, token, 403, 'insufficient_scope');
          else if (rule.gated && plan !== 'enterprise')
            await expect(who, token, 403, 'plan_upgrade_required');
          else await expect(who, token, rule.status, null);
        }
      }
      // Ids of this environment under the path of another one are unknown, even if the caller may
      // access both.
      if (plan === 'enterprise' && /configId|runId/.test(route)) {
        for (const [who, token] of [
          ['a key', foreign.token],
          ['a user of both environments', await user({ environments: [environment, 'stranger'] })],
          ['the operator', testAdminToken],
        ] as const) {
          await expect(
            `${who} with the path of another environment`,
            token,
            404,
            'not_found',
            'stranger',
          );
        }
      }
    }
  }
});

/** Inserts a config and a finished run. The secret is not a valid sealed secret. */
async function restore(environment: string): Promise<void> {
  await pool.query('delete from export_configs where environment_id = $1', [environment]);
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     values ($1, 'config-' || $1, 'c', true, 'daily', 'custom', 'acme', 'eu', '', 'https://127.0.0.1', 'id', 'none', 'none', false, now(), now(), now())`,
    [environment],
  );
  await pool.query(
    `insert into export_runs (environment_id, config_id, id, trigger, snapshot_date, state, created_at, finished_at)
     values ($1, 'config-' || $1, 'run-' || $1, 'manual', '2026-03-01', 'successful', now(), now())`,
    [environment],
  );
}
