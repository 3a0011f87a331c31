import t from 'tap';
import { adoptionRow, ingestBody } from '../../helpers/adoption-rows.ts';
import { startTestApp, type TestKey } from '../../helpers/app.ts';
import { inSeconds, makeIssuerKey, startIssuer } from '../../helpers/issuer.ts';
import { registerSecret, testAdminToken } from '../../helpers/secrets.ts';

const issuer = await startIssuer(t);
const issuerKey = await makeIssuerKey('ec');
await issuer.publish(issuerKey);

const app = await startTestApp(t, { env: { ...issuer.env, S3_ENDPOINT_ALLOWLIST: '127.0.0.1' } });
const document = app.app.swagger() as unknown as {
  paths: Record<string, Record<string, unknown>>;
};

type Need =
  | 'public'
  | 'operator'
  | 'own-operator'
  | 'member'
  | 'exports:read'
  | 'exports:write'
  | 'snapshots:write';
type Plan = 'free' | 'pro' | 'enterprise';

interface Rule {
  readonly needs: Need;
  /** Another scope that suffices. */
  readonly also?: Need;
  /** Lowest plan that allows the route. */
  readonly plan?: Plan;
  readonly body?: unknown;
  readonly csv?: true;
}

/** Access rule of each route, by openapi.yaml. A route without a rule here fails the test. */
const rules: Readonly<Record<string, Rule>> = {
  'GET /health/live': { needs: 'public' },
  'GET /health/ready': { needs: 'public' },
  'GET /metrics': { needs: 'public' },
  'GET /openapi.yaml': { needs: 'public' },
  'GET /v1/audit-log': { needs: 'operator' },
  'GET /v1/export-configs/status': { needs: 'operator' },
  'GET /v1/environments': { needs: 'operator' },
  'PUT /v1/environments/{environmentId}': { needs: 'operator', body: 'environment' },
  'GET /v1/environments/{environmentId}': { needs: 'member' },
  'DELETE /v1/environments/{environmentId}': { needs: 'own-operator' },
  'PUT /v1/environments/{environmentId}/failure-webhook': {
    needs: 'exports:write',
    body: { url: 'http://127.0.0.1:1/' },
  },
  'DELETE /v1/environments/{environmentId}/failure-webhook': { needs: 'exports:write' },
  'POST /v1/environments/{environmentId}/failure-webhook/rotate-secret': { needs: 'exports:write' },
  'POST /v1/environments/{environmentId}/failure-webhook/test': { needs: 'exports:write' },
  'GET /v1/environments/{environmentId}/api-keys': { needs: 'own-operator' },
  'POST /v1/environments/{environmentId}/api-keys': {
    needs: 'own-operator',
    body: { name: 'k', scopes: ['exports:read'] },
  },
  'DELETE /v1/environments/{environmentId}/api-keys/{keyId}': { needs: 'own-operator' },
  'GET /v1/environments/{environmentId}/snapshots': {
    needs: 'exports:read',
    also: 'snapshots:write',
  },
  'GET /v1/environments/{environmentId}/snapshots/{date}': {
    needs: 'exports:read',
    also: 'snapshots:write',
  },
  'PUT /v1/environments/{environmentId}/snapshots/{date}': { needs: 'snapshots:write', csv: true },
  'DELETE /v1/environments/{environmentId}/snapshots/{date}': { needs: 'snapshots:write' },
  'GET /v1/environments/{environmentId}/exports': { needs: 'exports:read', plan: 'pro' },
  'GET /v1/environments/{environmentId}/exports/{aggregation}.csv': {
    needs: 'exports:read',
    plan: 'pro',
  },
  'HEAD /v1/environments/{environmentId}/exports/{aggregation}.csv': {
    needs: 'exports:read',
    plan: 'pro',
  },
  'GET /v1/environments/{environmentId}/exports/{aggregation}.csv.gz': {
    needs: 'exports:read',
    plan: 'pro',
  },
  'HEAD /v1/environments/{environmentId}/exports/{aggregation}.csv.gz': {
    needs: 'exports:read',
    plan: 'pro',
  },
  'GET /v1/environments/{environmentId}/exports/{aggregation}.parquet': {
    needs: 'exports:read',
    plan: 'pro',
  },
  'HEAD /v1/environments/{environmentId}/exports/{aggregation}.parquet': {
    needs: 'exports:read',
    plan: 'pro',
  },
  'POST /v1/environments/{environmentId}/download-links': {
    needs: 'exports:read',
    plan: 'pro',
    body: { aggregation: 'today' },
  },
  'GET /v1/downloads/{token}': { needs: 'public' },
  'HEAD /v1/downloads/{token}': { needs: 'public' },
};

/** Routes with tests in their own folders. */
const elsewhere = /\}\/export-configs|\/runs\//;

t.test('has a rule in this test for every route, and a route for every rule', async t => {
  const printed = app.app.printRoutes({ commonPrefix: false, includeHooks: false });
  const found = routesOf(printed).filter(
    route => !elsewhere.test(route) && !/^\w+ \/docs/.test(route),
  );
  t.strictSame(found.sort(), Object.keys(rules).sort());
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of Object.keys(methods)) {
      const route = `${method.toUpperCase()} ${path}`;
      if (!elsewhere.test(route)) t.ok(rules[route], `${route} of openapi.yaml`);
    }
  }
});

/**
 * Returns the routes of find-my-way's tree. Each line has the whole path when prefixes are not
 * shared.
 */
function routesOf(tree: string): string[] {
  const routes: string[] = [];
  const path: string[] = [];
  for (const line of tree.split('\n')) {
    const parts = /^(?<indent>[│ ]*)[├└]── (?<segment>\S+)(?: \((?<methods>[A-Z, ]+)\))?$/.exec(
      line,
    )?.groups;
    if (parts === undefined) continue;
    const depth = (parts['indent'] ?? '').length / 4;
    path.length = depth;
    path[depth] = parts['segment'] ?? '';
    for (const method of (parts['methods'] ?? '').split(', ').filter(name => name !== '')) {
      routes.push(`${method} ${path.join('').replace(/:(\w+)/g, '{$1}')}`);
    }
  }
  return routes;
}

t.test('allows each route exactly the callers, scopes and plans of its rule', async t => {
  const plans: readonly Plan[] = ['free', 'pro', 'enterprise'];
  const scopes = ['exports:read', 'exports:write', 'snapshots:write'] as const;
  await app.putEnvironment('stranger', 'enterprise');
  const foreign = await app.makeKey('stranger', [...scopes]);
  const allScopes = scopes.join(' ');
  const foreignUser = await issuer.token(issuerKey, { environments: 'stranger', scope: allScopes });
  const revoked = await app.makeKey('stranger', [...scopes]);
  await app.call(`/v1/environments/stranger/api-keys/${revoked.id}`, { method: 'DELETE' });

  for (const plan of plans) {
    const environment = `on-${plan}`;
    await app.putEnvironment(environment, plan);
    await app.ingest(environment, '2026-03-01', ingestBody([adoptionRow()]));
    const keys = new Map<string, TestKey>();
    for (const scope of scopes) keys.set(scope, await app.makeKey(environment, [scope]));
    const user = (scope: string, claims: object = {}) =>
      issuer.token(issuerKey, { environments: [environment], scope, ...claims });
    const users = new Map<string, string>();
    for (const scope of scopes) users.set(scope, await user(scope));
    const expiredUser = await user(allScopes, { exp: inSeconds(0) });
    const forgedUser = await issuer.token(await makeIssuerKey('ec'), {
      environments: [environment],
      scope: allScopes,
    });

    for (const [route, rule] of Object.entries(rules)) {
      // Public routes have no plan.
      if (rule.needs === 'public' && plan !== 'free') continue;
      let spareId = '';
      /** Creates what the next successful call changes or deletes. */
      const prepare = async () => {
        if (route.includes('{keyId}')) {
          spareId = (await app.makeKey(environment, ['exports:read'])).id;
        }
        if (/DELETE .*snapshots/.test(route)) {
          await app.ingest(environment, '2026-03-01', ingestBody([adoptionRow()]));
        }
        if (route.includes('/failure-webhook')) {
          const json = { name: environment, plan, failureWebhook: 'http://127.0.0.1:1/' };
          const saved = await app.call(`/v1/environments/${environment}`, { method: 'PUT', json });
          if (saved.json.failureWebhookSecret !== undefined)
            registerSecret(saved.json.failureWebhookSecret);
        }
      };
      await prepare();
      const callWith = async (token: string | null, environmentId = environment) => {
        const [method = '', template = ''] = route.split(' ');
        const path = template
          .replace('{environmentId}', environmentId)
          .replace('{date}', '2026-03-01')
          .replace('{aggregation}', 'today')
          .replace('{keyId}', spareId)
          .replace('{token}', 'no-link');
        const json = rule.body === 'environment' ? { name: environment, plan } : rule.body;
        const answer = await app.call(path, {
          method,
          token,
          ...(json === undefined ? {} : { json }),
          ...(rule.csv
            ? { headers: { 'content-type': 'text/csv' }, body: ingestBody([adoptionRow()]) }
            : {}),
        });
        if (answer.status < 300) await prepare();
        return answer;
      };
      const planAllows = plans.indexOf(plan) >= plans.indexOf(rule.plan ?? 'free');
      // Callers and scopes are tried on the free plan and on the lowest plan that allows the route.
      const isThorough = plan === 'free' || plan === rule.plan;
      const expectProblem = (
        answer: Awaited<ReturnType<typeof callWith>>,
        status: number,
        code: string,
        who: string,
      ) => {
        t.equal(answer.status, status, `${route} on ${plan}: ${who}`);
        if (route.startsWith('HEAD ')) return;
        t.equal(answer.headers['content-type'], 'application/problem+json; charset=utf-8');
        t.equal(answer.json.code, code, `${route} on ${plan}: ${who}`);
        if (code === 'unauthenticated') t.equal(answer.headers['www-authenticate'], 'Bearer');
        if (code === 'plan_upgrade_required') {
          t.match(answer.json, { currentPlan: plan, requiredPlan: rule.plan });
        }
      };

      if (rule.needs === 'public') {
        const isLink = route.includes('/downloads/');
        for (const token of [null, 'nonsense', foreign.token, expiredUser, testAdminToken]) {
          const answer = await callWith(token);
          if (isLink) expectProblem(answer, 401, 'unauthenticated', 'a link with a forged token');
          else t.equal(answer.status, 200, route);
        }
        continue;
      }

      // The free plan includes the fewest routes, so a plan check before the caller fails here.
      if (plan === 'free') {
        const unknownKey = `whx_${'0'.repeat(16)}_${'0'.repeat(64)}`;
        const [, , secret = ''] = foreign.token.split('_');
        const otherSecret = `whx_${foreign.id}_${[...secret].reverse().join('')}`;
        const strangers = [
          ['no token', null],
          ['a revoked key', revoked.token],
          ['a user whose token has expired', expiredUser],
          ['an empty token', ''],
          ['a malformed token', 'whx_x'],
          ['an unknown key', unknownKey],
          ['a known key with another secret', otherSecret],
          ['the operator token without its last character', testAdminToken.slice(0, -1)],
          ['the operator token with a character more', `${testAdminToken}x`],
          ['a user whose token is forged', forgedUser],
        ] as const;
        // One route tries every kind of invalid token. The others refuse the first three.
        const isFirst = route === 'GET /v1/environments/{environmentId}';
        for (const [who, token] of isFirst ? strangers : strangers.slice(0, 3)) {
          expectProblem(await callWith(token), 401, 'unauthenticated', who);
        }

        const hasEnvironment = route.includes('{environmentId}');
        const isForAnyOperator = rule.needs === 'operator' && !hasEnvironment;
        for (const [who, token, ownToken] of [
          ['a key', foreign.token, keys.get('exports:read')?.token ?? ''],
          ['a user', foreignUser, users.get('exports:read') ?? ''],
        ] as const) {
          const asForeign = await callWith(token);
          if (isForAnyOperator) {
            expectProblem(asForeign, 403, 'insufficient_scope', who);
            continue;
          }
          expectProblem(asForeign, 404, 'not_found', `${who} of another environment`);
          const absent = await callWith(token, 'no-such-environment');
          expectProblem(absent, 404, 'not_found', `${who}: an environment that does not exist`);
          if (!route.startsWith('HEAD ')) {
            t.strictSame({ ...absent.json, requestId: '' }, { ...asForeign.json, requestId: '' });
          }
          expectProblem(await callWith(ownToken, 'stranger'), 404, 'not_found', `${who} elsewhere`);
        }
      }

      for (const scope of isThorough ? scopes : []) {
        const implied = scope === 'exports:write' && rule.needs === 'exports:read';
        const isSufficient =
          rule.needs === 'member' || rule.needs === scope || rule.also === scope || implied;
        for (const [who, token] of [
          ['a key', keys.get(scope)?.token ?? ''],
          ['a user', users.get(scope) ?? ''],
        ] as const) {
          const answer = await callWith(token);
          if (!isSufficient) {
            expectProblem(answer, 403, 'insufficient_scope', `${who} with ${scope}`);
          } else if (!planAllows) {
            expectProblem(answer, 403, 'plan_upgrade_required', `${who} with ${scope}`);
          } else {
            t.ok(
              answer.status >= 200 && answer.status < 300,
              `${route} on ${plan}: ${who} with ${scope}: ${answer.status}`,
            );
          }
        }
      }
      if (rule.needs !== 'member' && isThorough) {
        expectProblem(
          await callWith(await user('')),
          403,
          'insufficient_scope',
          'a user without a scope',
        );
      }

      // The operator comes last, because this call may delete the environment.
      const asOperator = await callWith(testAdminToken);
      if (!planAllows) expectProblem(asOperator, 403, 'plan_upgrade_required', 'the operator');
      else
        t.ok(
          asOperator.status >= 200 && asOperator.status < 300,
          `${route}: operator: ${asOperator.status}`,
        );
      if (route === 'DELETE /v1/environments/{environmentId}') {
        await app.putEnvironment(environment, plan);
        await app.ingest(environment, '2026-03-01', ingestBody([adoptionRow()]));
        for (const scope of scopes) keys.set(scope, await app.makeKey(environment, [scope]));
      }
    }
  }
});

t.test('accepts only the scheme Bearer, in any case', async t => {
  for (const header of [`bearer ${testAdminToken}`, `BEARER   ${testAdminToken}`]) {
    const answer = await app.call('/v1/environments', {
      token: null,
      headers: { authorization: header },
    });
    t.equal(answer.status, 200);
  }
  const basic = Buffer.from(`:${testAdminToken}`).toString('base64');
  for (const header of [
    testAdminToken,
    `Basic ${basic}`,
    `Token ${testAdminToken}`,
    'Bearer',
    `Bearer x ${testAdminToken}`,
  ]) {
    const answer = await app.call('/v1/environments', {
      token: null,
      headers: { authorization: header },
    });
    t.equal(answer.status, 401);
  }
  const inQuery = await app.call(`/v1/environments?token=${'x'.repeat(40)}&access_token=y`, {
    token: null,
  });
  t.equal(inQuery.status, 401);
});

t.test('refuses to start with a route without an access rule', async t => {
  const { buildApp } = await import('../../../src/app.ts');
  const withCors = { ...app.config, corsOrigins: ['https://app.example.com'] };
  for (const [method, url, config] of [
    ['GET', '/v1/forgotten', app.config],
    ['GET', '/v1/forgotten', withCors],
    ['OPTIONS', '/v1/forgotten', withCors],
  ] as const) {
    const other = await buildApp({ ...app.dependencies, config });
    other.route({ method, url, handler: () => 'open to all' });
    const refused = new RegExp(`${method} ${url} does not say who may call it`);
    await t.rejects(async () => await other.ready(), refused);
    await other.close();
  }
});
