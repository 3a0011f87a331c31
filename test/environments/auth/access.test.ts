import t from 'tap';
import { adoptionRow, ingestBody } from '../../helpers/adoption-rows.ts';
import { startTestApp } from '../../helpers/app.ts';
import type { Answer } from '../../helpers/http-client.ts';
import { inSeconds, makeIssuerKey, startIssuer } from '../../helpers/issuer.ts';
import { testAdminToken } from '../../helpers/secrets.ts';

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
type Plan = (typeof plans)[number];

const plans = ['free', 'pro', 'enterprise'] as const;
const scopes = ['exports:read', 'exports:write', 'snapshots:write'] as const;

interface Rule {
  readonly needs: Need;
  /** Another scope that suffices. */
  readonly also?: Need;
  /** Lowest plan that allows the route. */
  readonly plan?: Plan;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Status for a caller with permission. Default: a 2xx status. */
  readonly status?: number;
}

const own = '/v1/environments/{environmentId}';
const configs = `${own}/export-configs`;
const backfills = `${configs}/{configId}/backfills`;
const exported: Rule = { needs: 'exports:read', plan: 'pro' };
/** The condition saves the time to render a file. */
const download: Rule = { ...exported, headers: { 'if-match': '"other"' }, status: 412 };
const read: Rule = { needs: 'exports:read' };
const write: Rule = { needs: 'exports:write' };
const exportRule: Rule = { needs: 'exports:write', plan: 'enterprise' };
/** The service may not connect to the endpoint, so the check of the bucket fails. */
const configBody = {
  name: 'Nightly',
  schedule: 'daily',
  provider: 'custom',
  endpoint: 'https://10.0.0.1',
  bucket: 'acme',
  region: 'eu',
  key: 'elsewhere',
  accessKeyId: 'id',
  secretAccessKey: 'not-a-real-secret',
};

/** Access rule of each route, by openapi.yaml. A route without a rule here fails the test. */
const rules: Readonly<Record<string, Rule>> = {
  'GET /health/live': { needs: 'public' },
  'GET /health/ready': { needs: 'public' },
  'GET /metrics': { needs: 'public' },
  'GET /openapi.yaml': { needs: 'public' },
  'GET /v1/audit-log': { needs: 'operator' },
  'GET /v1/export-configs/status': { needs: 'operator' },
  'GET /v1/environments': { needs: 'operator' },
  [`PUT ${own}`]: { needs: 'operator', body: { name: 'acme', plan: 'free' } },
  [`GET ${own}`]: { needs: 'member' },
  [`PUT ${own}/failure-webhook`]: { ...write, body: { url: 'http://127.0.0.1:1/' } },
  [`DELETE ${own}/failure-webhook`]: write,
  [`POST ${own}/failure-webhook/rotate-secret`]: write,
  [`POST ${own}/failure-webhook/test`]: write,
  [`GET ${own}/api-keys`]: { needs: 'own-operator' },
  [`POST ${own}/api-keys`]: {
    needs: 'own-operator',
    body: { name: 'k', scopes: ['exports:read'] },
  },
  [`DELETE ${own}/api-keys/{keyId}`]: { needs: 'own-operator' },
  [`GET ${own}/snapshots`]: { ...read, also: 'snapshots:write' },
  [`GET ${own}/snapshots/{date}`]: { ...read, also: 'snapshots:write' },
  [`PUT ${own}/snapshots/{date}`]: { needs: 'snapshots:write' },
  [`DELETE ${own}/snapshots/{date}`]: { needs: 'snapshots:write' },
  [`GET ${own}/exports`]: exported,
  [`GET ${own}/exports/{aggregation}.csv`]: download,
  [`HEAD ${own}/exports/{aggregation}.csv`]: download,
  [`GET ${own}/exports/{aggregation}.csv.gz`]: download,
  [`HEAD ${own}/exports/{aggregation}.csv.gz`]: download,
  [`GET ${own}/exports/{aggregation}.parquet`]: download,
  [`HEAD ${own}/exports/{aggregation}.parquet`]: download,
  [`POST ${own}/download-links`]: { ...exported, body: { aggregation: 'today' } },
  'GET /v1/downloads/{token}': { needs: 'public', status: 401 },
  'HEAD /v1/downloads/{token}': { needs: 'public', status: 401 },
  [`GET ${configs}`]: read,
  [`POST ${configs}`]: { ...exportRule, body: configBody, status: 422 },
  [`POST ${configs}/validate`]: { ...exportRule, body: configBody },
  [`GET ${configs}/{configId}`]: read,
  [`PATCH ${configs}/{configId}`]: { ...exportRule, body: { name: 'Daily' } },
  // The stored secret is not a valid sealed secret.
  [`POST ${configs}/{configId}/validate`]: { ...exportRule, status: 500 },
  [`GET ${configs}/{configId}/status`]: read,
  [`POST ${configs}/{configId}/runs`]: exportRule,
  [`GET ${configs}/{configId}/runs`]: read,
  [`GET ${configs}/{configId}/runs/{runId}`]: read,
  [`POST ${configs}/{configId}/runs/{runId}/retry`]: { ...exportRule, status: 409 },
  [`POST ${configs}/{configId}/runs/{runId}/cancel`]: { ...write, status: 409 },
  [`GET ${own}/runs/{runId}`]: read,
  [`POST ${backfills}`]: { ...exportRule, body: { from: '2026-03-01', to: '2026-03-02' } },
  [`GET ${backfills}`]: read,
  [`GET ${backfills}/{backfillId}`]: { ...read, status: 404 },
  [`POST ${backfills}/{backfillId}/cancel`]: { ...write, status: 404 },
  [`DELETE ${configs}/{configId}`]: write,
  // Keep last: it deletes everything that the other rules use.
  [`DELETE ${own}`]: { needs: 'own-operator' },
};

t.test('has a rule in this test for every route, and a route for every rule', async t => {
  const printed = app.app.printRoutes({ commonPrefix: false, includeHooks: false });
  const found = routesOf(printed).filter(route => !/^\w+ \/docs/.test(route));
  t.strictSame(found.sort(), Object.keys(rules).sort());
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of Object.keys(methods)) {
      const route = `${method.toUpperCase()} ${path}`;
      t.ok(rules[route], `${route} of openapi.yaml`);
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

const date = '2026-03-01';
const ingest = (environment: string) => app.ingest(environment, date, ingestBody([adoptionRow()]));

/** Inserts a config and a finished run. The secret is not a valid sealed secret. */
async function insertConfig(environment: string): Promise<void> {
  const { pool } = app.database;
  await pool.query('delete from export_configs where environment_id = $1', [environment]);
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     values ($1, 'config-' || $1, 'c', true, 'daily', 'custom', 'acme', 'eu', '', 'https://127.0.0.1', 'id', 'none', 'none', false, now(), now(), now())`,
    [environment],
  );
  await pool.query(
    `insert into export_runs (environment_id, config_id, id, trigger, snapshot_date, state, created_at, finished_at)
     values ($1, 'config-' || $1, 'run-' || $1, 'manual', $2, 'successful', now(), now())`,
    [environment, date],
  );
}

/** Restores what a successful call of the route changes or deletes. */
async function restore(route: string, environment: string): Promise<void> {
  if (route.startsWith('GET ') || route.startsWith('HEAD ')) return;
  if (route.includes('/snapshots/')) await ingest(environment);
  if (/\{(configId|runId)\}/.test(route)) await insertConfig(environment);
  if (!route.includes('/failure-webhook')) return;
  const json = { url: 'http://127.0.0.1:1/' };
  const path = `/v1/environments/${environment}/failure-webhook`;
  await app.call(path, { method: 'PUT', json });
}

t.test('allows each route exactly the callers, scopes and plans of its rule', async t => {
  await app.putEnvironment('stranger', 'enterprise');
  const allScopes = scopes.join(' ');
  const user = (environments: string | string[], scope: string, claims: object = {}) =>
    issuer.token(issuerKey, { environments, scope, ...claims });
  /** Tokens of each scope in each environment: of a key and of a user. */
  const tokens = new Map<string, readonly [string, string]>();
  const tokensOf = (environment: string, scope: string) =>
    tokens.get(`${environment} ${scope}`) ?? ['', ''];
  for (const plan of plans) {
    const environment = `on-${plan}`;
    await app.putEnvironment(environment, plan);
    await ingest(environment);
    await insertConfig(environment);
    for (const scope of scopes) {
      const key = await app.makeKey(environment, [scope]);
      tokens.set(`${environment} ${scope}`, [key.token, await user(environment, scope)]);
    }
  }
  const spare = await app.makeKey('on-free', ['exports:read']);
  const foreign = await app.makeKey('stranger', scopes);
  const revoked = await app.makeKey('stranger', scopes);
  await app.call(`/v1/environments/stranger/api-keys/${revoked.id}`, { method: 'DELETE' });

  const [, , secret = ''] = foreign.token.split('_');
  const invalid = [
    ['no token', null],
    ['a revoked key', revoked.token],
    ['a user whose token has expired', await user('on-free', allScopes, { exp: inSeconds(0) })],
    ['an empty token', ''],
    ['a malformed token', 'whx_x'],
    ['an unknown key', `whx_${'0'.repeat(16)}_${'0'.repeat(64)}`],
    ['a known key with another secret', `whx_${foreign.id}_${[...secret].reverse().join('')}`],
    ['the operator token without its last character', testAdminToken.slice(0, -1)],
    ['the operator token with a character more', `${testAdminToken}x`],
    [
      'a user whose token is forged',
      await issuer.token(await makeIssuerKey('ec'), { environments: 'on-free', scope: allScopes }),
    ],
  ] as const;
  const foreigners = [
    ['a key of another environment', foreign.token],
    ['a user of another environment', await user('stranger', allScopes)],
    ['a key without the scope', tokensOf('on-enterprise', 'exports:read')[0]],
    ['a user without a scope', await user('stranger', '')],
  ] as const;
  const ofBoth = [
    ['a key of the other environment', foreign.token],
    ['a user of both environments', await user(['on-enterprise', 'stranger'], allScopes)],
    ['the operator', testAdminToken],
  ] as const;

  const kinds = new Set<string>();
  /** Returns true for the first route of a kind. */
  const isNew = (kind: string) => kinds.size < kinds.add(kind).size;
  for (const [index, [route, rule]] of Object.entries(rules).entries()) {
    /**
     * The first route of each kind gets every caller. Other routes get one caller of each list in
     * turn, because one function authorizes all of them.
     */
    const isFirst = isNew(`${rule.needs} ${rule.plan}`);
    const some = <T>(list: readonly T[], isWhole = isFirst) =>
      isWhole ? list : list.slice(index % list.length, (index % list.length) + 1);
    const [method = '', template = ''] = route.split(' ');

    const callWith = (token: string | null, environment: string, idsOf = environment) => {
      const path = template
        .replace('{environmentId}', environment)
        .replace('{configId}', `config-${idsOf}`)
        .replace('{runId}', `run-${idsOf}`)
        .replace('{backfillId}', 'no-such')
        .replace('{date}', date)
        .replace('{aggregation}', 'today')
        .replace('{keyId}', spare.id)
        .replace('{token}', 'no-link');
      if (route === `PUT ${own}/snapshots/{date}`) {
        const body = ingestBody([adoptionRow()]);
        return app.call(path, { method, token, headers: { 'content-type': 'text/csv' }, body });
      }
      const headers = rule.headers ?? {};
      return app.call(path, { method, token, headers, json: rule.body });
    };
    const expectProblem = (answer: Answer, status: number, code: string, who: string) => {
      t.equal(answer.status, status, `${route}: ${who}`);
      if (method === 'HEAD') return;
      t.equal(answer.headers['content-type'], 'application/problem+json; charset=utf-8');
      t.equal(answer.json.code, code, `${route}: ${who}`);
      if (code === 'unauthenticated') t.equal(answer.headers['www-authenticate'], 'Bearer');
    };
    const expectPlan = async (token: string, plan: Plan, who: string) => {
      const answer = await callWith(token, `on-${plan}`);
      expectProblem(answer, 403, 'plan_upgrade_required', `${who} on ${plan}`);
      if (method === 'HEAD') return;
      t.match(answer.json, { currentPlan: plan, requiredPlan: rule.plan });
    };
    const expectAllowed = async (token: string | null, plan: Plan, who: string) => {
      await restore(route, `on-${plan}`);
      const { status, text } = await callWith(token, `on-${plan}`);
      const isAllowed = rule.status ? status === rule.status : status >= 200 && status < 300;
      t.ok(isAllowed, `${route} on ${plan}: ${who}: ${status} ${isAllowed ? '' : text}`);
    };

    if (rule.needs === 'public') {
      for (const token of some([null, 'nonsense'])) {
        await expectAllowed(token, 'free', String(token));
      }
      continue;
    }

    // The free plan includes the fewest routes, so a plan check before the caller fails here.
    for (const [who, token] of some(invalid, isNew('any'))) {
      expectProblem(await callWith(token, 'on-free'), 401, 'unauthenticated', who);
    }
    const isFirstOfNeed = isNew(rule.needs);
    for (const [who, token] of some(foreigners, isFirstOfNeed)) {
      const answer = await callWith(token, 'on-free');
      if (!template.includes('{environmentId}')) {
        expectProblem(answer, 403, 'insufficient_scope', who);
        continue;
      }
      expectProblem(answer, 404, 'not_found', who);
      if (!isFirstOfNeed) continue;
      const absent = await callWith(token, 'no-such-environment');
      expectProblem(absent, 404, 'not_found', `${who}: an environment that does not exist`);
      if (method !== 'HEAD') {
        t.strictSame({ ...absent.json, requestId: '' }, { ...answer.json, requestId: '' });
      }
    }
    if (isFirst && rule.needs !== 'member') {
      const answer = await callWith(await user('on-free', ''), 'on-free');
      expectProblem(answer, 403, 'insufficient_scope', 'a user without a scope');
    }

    const lowest = rule.plan ?? 'free';
    const lower = plans.slice(0, plans.indexOf(lowest));
    for (const scope of scopes) {
      const isSufficient =
        rule.needs === 'member' ||
        rule.needs === scope ||
        rule.also === scope ||
        (rule.needs === 'exports:read' && scope === 'exports:write');
      for (const at of some([0, 1] as const)) {
        const who = `a ${at === 0 ? 'key' : 'user'} with ${scope}`;
        if (!isSufficient) {
          const answer = await callWith(tokensOf('on-free', scope)[at], 'on-free');
          expectProblem(answer, 403, 'insufficient_scope', who);
          continue;
        }
        await expectAllowed(tokensOf(`on-${lowest}`, scope)[at], lowest, who);
        if (!isFirst) continue;
        for (const plan of lower) await expectPlan(tokensOf(`on-${plan}`, scope)[at], plan, who);
      }
    }
    if (rule.plan === 'pro') await expectAllowed(testAdminToken, 'enterprise', 'the operator');
    for (const plan of lower) await expectPlan(testAdminToken, plan, 'the operator');
    // Ids of this environment under the path of another one are unknown, even if the caller may
    // access both.
    if (/\{(configId|runId)\}/.test(route)) {
      for (const [who, token] of some(ofBoth)) {
        const answer = await callWith(token, 'stranger', 'on-enterprise');
        expectProblem(answer, 404, 'not_found', `${who} with the path of another environment`);
      }
    }
    // The operator comes last, because this call may delete the environment.
    await expectAllowed(testAdminToken, lowest, 'the operator');
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
    ['OPTIONS', '/v1/forgotten', withCors],
  ] as const) {
    const other = await buildApp({ ...app.dependencies, config });
    other.route({ method, url, handler: () => 'open to all' });
    const refused = new RegExp(`${method} ${url} does not say who may call it`);
    await t.rejects(async () => await other.ready(), refused);
    await other.close();
  }
});
