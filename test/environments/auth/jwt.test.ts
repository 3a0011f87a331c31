import { KeyObject, sign } from 'node:crypto';
import type http from 'node:http';
import fc from 'fast-check';
import { exportJWK, exportSPKI, importJWK, SignJWT } from 'jose';
import t from 'tap';
import type { JwtConfig } from '../../../src/config/config.ts';
import { createIssuerKeys } from '../../../src/environments/auth/jwks.ts';
import { createUserTokens } from '../../../src/environments/auth/jwt.ts';
import { AppError } from '../../../src/shared/errors.ts';
import { adoptionRow, ingestBody } from '../../helpers/adoption-rows.ts';
import { startApp, startTestApp, testNow } from '../../helpers/app.ts';
import { ask } from '../../helpers/http-client.ts';
import {
  inSeconds,
  issuerAudience,
  issuerName,
  makeIssuerKey,
  startIssuer,
} from '../../helpers/issuer.ts';
import { scaled, seed } from '../../helpers/scale.ts';
import { registerSecret } from '../../helpers/secrets.ts';

const issuer = await startIssuer(t);
const key = await makeIssuerKey('ec');
const rsa = await makeIssuerKey('rsa', 'RS256');
const ed = await makeIssuerKey('ed', 'EdDSA');
await issuer.publish(key, rsa, ed);
const app = await startTestApp(t, { env: issuer.env });
await app.putEnvironment('acme', 'pro');
await app.putEnvironment('globex', 'pro');
await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));

const exportsOf = (environment: string) => `/v1/environments/${environment}/exports`;
const after = (seconds: number) => new Date(Date.parse(testNow) + seconds * 1_000).toISOString();

t.afterEach(() => app.setNow(testNow));

type Assertions = Pick<typeof t, 'equal' | 'match'>;

/** Verifies a token without a request. Returns the user, or the reason of a 401. */
const verify = (token: string) =>
  app.dependencies.userTokens?.verify(token, app.dependencies.now());

/** Expects the verifier to refuse a token. A request would answer 401 with the same reason. */
async function expectRefused(
  t: Assertions,
  token: string,
  what: string,
  reason = /./,
): Promise<void> {
  const result = await verify(token);
  t.equal(typeof result, 'string', what);
  t.match(result, reason, what);
}

async function expectUnauthenticated(
  t: Assertions,
  token: string,
  what: string,
  detail = /./,
): Promise<void> {
  const answer = await app.call(exportsOf('acme'), { token });
  t.equal(answer.status, 401, what);
  t.equal(answer.json.code, 'unauthenticated', what);
  t.equal(answer.headers['www-authenticate'], 'Bearer', what);
  t.match(answer.json.detail, detail, what);
}

t.test('gives a token the scopes and environments of its claims', async t => {
  const status = async (path: string, claims: Record<string, unknown>, method = 'GET') =>
    (await app.call(path, { method, token: await issuer.token(key, claims) })).status;
  const acme = exportsOf('acme');
  t.equal(
    await status(acme, { scope: ['exports:write', 'admin'] }),
    200,
    'a list of scopes; write implies read',
  );
  t.equal(await status(acme, { environments: 'acme' }), 200, 'one environment as a string');
  t.equal(await status(acme, { environments: ['globex', 'acme'] }), 200, 'several environments');
  t.equal(await status(exportsOf('globex'), { environments: ['globex', 'acme'] }), 200);
  for (const scope of [
    '',
    'openid',
    'exports:rea',
    'EXPORTS:READ',
    'exports:read,openid',
    'snapshots:write',
    [],
  ]) {
    t.equal(await status(acme, { scope }), 403, `scope ${JSON.stringify(scope)}`);
  }
  t.equal(await status(acme, { scope: undefined }), 403, 'no scope without the claim');
  t.equal(
    await status('/v1/environments/acme', { scope: undefined }),
    200,
    'reading the environment needs no scope',
  );
});

t.test('answers the same for another environment as for one that does not exist', async t => {
  const token = await issuer.token(key, { environments: ['acme', 'no-such-environment'] });
  const [other, absent] = [
    await app.call(exportsOf('globex'), { token }),
    await app.call(exportsOf('no-such-environment'), { token }),
  ];
  t.equal(other.status, 404);
  t.strictSame({ ...absent.json, requestId: '' }, { ...other.json, requestId: '' });
  for (const environments of [[], '', 'acme globex', 'acme,globex', '*', ['ACME'], ['acme ']]) {
    const answer = await app.call(exportsOf('acme'), {
      token: await issuer.token(key, { environments }),
    });
    t.equal(answer.status, 404, JSON.stringify(environments));
  }
});

t.test('never gives a token the rights of the operator', async t => {
  const claims = {
    scope: 'operator admin exports:write snapshots:write',
    environments: ['acme', '*'],
    admin: true,
  };
  const token = await issuer.token(key, claims);
  for (const [method, path] of [
    ['GET', '/v1/environments'],
    ['PUT', '/v1/environments/acme'],
    ['DELETE', '/v1/environments/acme'],
    ['GET', '/v1/environments/acme/api-keys'],
    ['POST', '/v1/environments/acme/api-keys'],
  ] as const) {
    const answer = await app.call(path, { method, token });
    t.equal(answer.status, 403, `${method} ${path}`);
    t.equal(answer.json.code, 'insufficient_scope');
  }
});

t.test('refuses a token that is expired, not yet valid or without expiry', async t => {
  const token = await issuer.token(key, { exp: inSeconds(60), nbf: inSeconds(0) });
  app.setNow(after(59));
  t.equal((await app.call(exportsOf('acme'), { token })).status, 200);
  app.setNow(after(60));
  await expectUnauthenticated(t, token, 'expired', /has expired/);
  app.setNow(after(-1));
  await expectUnauthenticated(t, token, 'not before', /claim nbf/);
  app.setNow(testNow);
  await expectRefused(t, await issuer.token(key, { exp: undefined }), 'no end', /claim exp/);
  for (const exp of ['2030-01-01', null, [inSeconds(60)], {}]) {
    await expectRefused(t, await issuer.token(key, { exp: exp }), `exp ${JSON.stringify(exp)}`);
  }
});

t.test('refuses a token of another issuer or audience', async t => {
  for (const iss of [
    undefined,
    '',
    'https://login.example.com',
    'https://login.example.com/x',
    1,
    null,
    [],
  ]) {
    await expectRefused(t, await issuer.token(key, { iss: iss }), `iss ${iss}`, /claim iss/);
  }
  for (const aud of [undefined, '', 'warehouse', ['other'], [], 1, null]) {
    await expectRefused(t, await issuer.token(key, { aud: aud }), `aud ${aud}`, /claim aud/);
  }
  const several = await issuer.token(key, { aud: ['other', 'warehouse-export'] });
  t.equal((await app.call(exportsOf('acme'), { token: several })).status, 200);
});

t.test('refuses a token with missing or malformed claims', async t => {
  for (const sub of [undefined, '', 1, null, {}, 'x'.repeat(257), 'a\u0000b', 'a\nb', '\ud800']) {
    await expectRefused(
      t,
      await issuer.token(key, { sub: sub }),
      `sub ${JSON.stringify(sub)}`,
      /claim sub/,
    );
  }
  for (const environments of [
    undefined,
    null,
    1,
    true,
    {},
    { 0: 'acme', length: 1 },
    ['acme', 1],
    [['acme']],
  ]) {
    const token = await issuer.token(key, { environments });
    await expectRefused(
      t,
      token,
      `environments ${JSON.stringify(environments)}`,
      /claim environments/,
    );
  }
  for (const scope of [
    null,
    1,
    { 'exports:read': true },
    ['exports:read', null],
    [['exports:read']],
  ]) {
    await expectRefused(
      t,
      await issuer.token(key, { scope }),
      `scope ${JSON.stringify(scope)}`,
      /claim scope/,
    );
  }
});

t.test('refuses unsigned tokens and tokens signed with the public key as a secret', async t => {
  const good = await issuer.token(rsa);
  const [, payload = '', signature = ''] = good.split('.');
  const header = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString());
  const publicForms = [
    await exportSPKI(rsa.publicKey),
    JSON.stringify(await exportJWK(rsa.publicKey)),
    (await exportJWK(rsa.publicKey)).n ?? '',
  ];
  for (const form of publicForms) {
    for (const alg of ['HS256', 'HS512']) {
      const forged = new SignJWT(claims)
        .setProtectedHeader({ alg, kid: 'rsa' })
        .sign(new TextEncoder().encode(form.padEnd(64, '\0')));
      await expectRefused(t, await forged, `${alg} with the public key`);
    }
  }
  for (const alg of [
    'none',
    'None',
    'NONE',
    '',
    'RS512',
    'PS256',
    'ES256',
    'HS256',
    null,
    1,
    ['RS256'],
  ]) {
    for (const end of ['', signature]) {
      await expectRefused(t, `${header({ alg, kid: 'rsa' })}.${payload}.${end}`, `alg ${alg}`);
    }
  }
  await expectUnauthenticated(t, `${header({ kid: 'rsa' })}.${payload}.${signature}`, 'no alg');
  await expectRefused(
    t,
    await issuer.token(key, {}, { kid: 'rsa' }),
    'the kid of a key of another type',
  );
  const critical = new SignJWT(claims)
    .setProtectedHeader({ alg: 'RS256', kid: 'rsa', crit: ['x'], x: 1 })
    .sign(rsa.privateKey, { crit: { x: true } });
  await expectRefused(t, await critical, 'an unknown critical extension');
});

t.test('ignores a key inside the token', async t => {
  const own = await makeIssuerKey('ec');
  const jwk = await exportJWK(own.publicKey);
  for (const header of [
    {},
    { jwk },
    { jku: 'http://127.0.0.1:1/keys' },
    { x5u: 'http://127.0.0.1:1/' },
    { kid: undefined, jwk },
  ]) {
    await expectRefused(t, await issuer.token(own, {}, header), Object.keys(header).join());
  }
});

t.test('refuses a token with any character changed', async t => {
  const token = await issuer.token(ed);
  t.match(await verify(token), { subject: 'user-1' });
  for (let at = 0; at < token.length - 1; at += 1) {
    const other = token[at] === 'A' ? 'B' : 'A';
    const result = await verify(token.slice(0, at) + other + token.slice(at + 1));
    if (typeof result !== 'string') t.fail(`accepted with another character at ${at}`);
  }
});

t.test('refuses malformed tokens and accepts large tokens', async t => {
  for (const token of [
    'a.b.c',
    '..',
    'e30.e30.',
    'e30.e30.e30',
    'eyJhbGciOiJFUzI1NiJ9.bnVsbA.AAAA',
    'a.b.c.d.e',
  ]) {
    await expectUnauthenticated(t, token, token);
  }
  const long = await issuer.token(key, { more: 'x'.repeat(9_000) });
  t.equal(
    (await app.call(exportsOf('acme'), { token: long })).status,
    200,
    'a token near the size limit of headers',
  );
  const wide = await issuer.token(key, {
    environments: Array.from({ length: 1_500 }, (_, index) => `e${index}`),
  });
  t.equal((await app.call(exportsOf('acme'), { token: wide })).status, 404);
  await expectUnauthenticated(t, `${long.slice(0, -5)}AAAAA`, 'long and forged');
  await expectUnauthenticated(t, `${'e30.'.repeat(3_000)}e30`, 'very many parts');
  const tooLong = await app.call(exportsOf('acme'), { token: 'x'.repeat(20_000) });
  t.equal(tooLong.status, 431);
});

t.test('answers 200, 401, 403 or 404 for random claims and headers', async t => {
  const mostly = (good: unknown) =>
    fc.oneof(
      { arbitrary: fc.constant(good), weight: 12 },
      { arbitrary: fc.jsonValue(), weight: 1 },
      { arbitrary: fc.constant(undefined), weight: 1 },
    );
  const claims = fc.record({
    iss: mostly('https://login.example.com/'),
    aud: mostly('warehouse-export'),
    sub: mostly('user-1'),
    exp: fc.oneof(mostly(inSeconds(60)), fc.double({ noNaN: true, min: inSeconds(1) })),
    nbf: mostly(inSeconds(0)),
    iat: mostly(inSeconds(-60)),
    environments: fc.oneof(mostly(['acme']), mostly('acme'), fc.constant(['globex'])),
    scope: fc.oneof(mostly('exports:read'), mostly(['exports:read']), fc.constant('openid')),
  });
  const header = fc.dictionary(
    fc.constantFrom('kid', 'alg', 'typ', 'cty', 'jwk', 'b64', 'crit', 'x5c'),
    fc.jsonValue(),
  );
  const statuses = new Set<number>();
  const base64url = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  await fc.assert(
    fc.asyncProperty(claims, header, fc.boolean(), async (payload, changes, isSigned) => {
      // Signed by hand, because a library refuses some of them.
      const input = `${base64url({ alg: 'ES256', kid: 'ec', ...(isSigned ? {} : changes) })}.${base64url(payload)}`;
      const signature = sign('sha256', Buffer.from(input), {
        key: KeyObject.from(key.privateKey),
        dsaEncoding: 'ieee-p1363',
      });
      const { status } = await app.call(exportsOf('acme'), {
        token: `${input}.${signature.toString('base64url')}`,
      });
      statuses.add(status);
      return [200, 401, 403, 404, 431].includes(status);
    }),
    { numRuns: scaled(500, 40), seed },
  );
  for (const status of [200, 401, 403, 404]) t.ok(statuses.has(status), `some get ${status}`);
});

t.test('reads the claims under configured names', async t => {
  const { jwt } = app.config;
  if (jwt === null) throw new Error('expected a configured identity provider');
  const keyOf = createIssuerKeys(jwt.jwksUrl, { now: app.dependencies.now, onError: t.error });
  const read = async (names: Partial<JwtConfig>, claims: Record<string, unknown>) => {
    const token = await issuer.token(key, claims);
    return await createUserTokens({ ...jwt, ...names }, keyOf).verify(token, new Date(testNow));
  };
  const tenants = 'https://example.com/tenants';
  const names = { environmentsClaim: tenants, scopesClaim: 'permissions' };
  t.match(await read(names, { [tenants]: 'acme', permissions: ['exports:read'] }), {
    environmentIds: ['acme'],
    scopes: ['exports:read'],
  });
  t.match(await read(names, {}), /claim https:.*tenants/);
  t.match(await read(names, { [tenants]: ['acme'] }), { environmentIds: ['acme'], scopes: [] });
  const odd = { environmentsClaim: 'toString', scopesClaim: '__proto__' };
  t.match(await read(odd, {}), /claim toString/);
});

t.test('refuses every JWT without a configured identity provider', async t => {
  const other = await startApp(t, { databaseUrl: app.database.url });
  t.equal(
    (await other.call('/v1/environments/acme', { token: await issuer.token(key) })).status,
    401,
  );
});

t.test('expires a download link with the token that created it', async t => {
  const make = async (token: string) => {
    const json = { aggregation: 'today', expiresInSeconds: 3600 };
    const answer = await app.call('/v1/environments/acme/download-links', {
      method: 'POST',
      token,
      json,
    });
    t.equal(answer.status, 201);
    registerSecret(answer.json.url.split('/').at(-1));
    return answer.json as { url: string; expiresAt: string };
  };
  const link = await make(await issuer.token(key, { exp: inSeconds(100) + 0.5 }));
  t.equal(link.expiresAt, after(100));
  app.setNow(after(99));
  t.equal((await ask(link.url)).status, 200);
  app.setNow(after(100));
  t.equal((await ask(link.url)).status, 401);
  app.setNow(testNow);
  for (const exp of [inSeconds(86_400), 1e300]) {
    t.equal((await make(await issuer.token(key, { exp }))).expiresAt, after(3600));
  }
  const lasting = await make(await issuer.token(key));
  await app.putEnvironment('acme', 'free');
  t.equal((await ask(lasting.url)).json.code, 'plan_upgrade_required');
  await app.putEnvironment('acme', 'pro');
  t.equal((await ask(lasting.url)).status, 200);
  await app.putEnvironment('brief', 'pro');
  const { url } = await (async () => {
    const token = await issuer.token(key, { environments: 'brief' });
    const answer = await app.call('/v1/environments/brief/download-links', {
      method: 'POST',
      token,
      json: { aggregation: 'today' },
    });
    return answer.json;
  })();
  t.equal((await ask(url)).status, 200);
  await app.call('/v1/environments/brief', { method: 'DELETE' });
  t.equal((await ask(url)).status, 401, 'after the deletion of the environment');
});

t.test('reads the keys of the identity provider', async t => {
  const issuer = await startIssuer(t);
  const key = await makeIssuerKey('first');
  const next = await makeIssuerKey('second');
  const start = Date.parse(testNow);

  t.beforeEach(async () => {
    issuer.setAnswer(null);
    await issuer.publish(key);
  });

  const verifierConfig = (url = issuer.env['JWT_JWKS_URL'] ?? '') => ({
    issuer: issuerName,
    audience: issuerAudience,
    jwksUrl: new URL(url),
    environmentsClaim: 'environments',
    scopesClaim: 'scope',
  });

  /**
   * Creates a verifier without keys. `verify` returns `user`, or the message or code of the error.
   */
  function createVerifier({ url = issuer.env['JWT_JWKS_URL'] ?? '', cooldownMs = 0 } = {}) {
    let nowMs = start;
    const failures: unknown[] = [];
    const now = () => new Date(nowMs);
    const keyOf = createIssuerKeys(new URL(url), {
      now,
      onError: error => failures.push(error),
      cooldownMs,
    });
    const tokens = createUserTokens(verifierConfig(url), keyOf);
    return {
      failures,
      pass: (seconds: number) => {
        nowMs += seconds * 1_000;
      },
      async verify(token: string): Promise<string> {
        try {
          const user = await tokens.verify(token, new Date(start));
          return typeof user === 'string' ? user : 'user';
        } catch (error) {
          if (!(error instanceof AppError)) throw error;
          t.equal(error.headers['retry-after'], '10');
          return error.code;
        }
      },
    };
  }

  const notSigned = 'The token is not one that the identity provider has signed.';

  t.test('accepts a valid token of each algorithm and fetches the keys once', async t => {
    await issuer.publish(key, rsa, ed);
    const { verify } = createVerifier();
    const before = issuer.asked;
    for (const one of [key, rsa, ed])
      t.equal(await verify(await issuer.token(one)), 'user', one.alg);
    t.equal(issuer.asked - before, 1);
  });

  t.test('fetches the keys once for an unknown kid, and again only after the cooldown', async t => {
    const { verify } = createVerifier({ cooldownMs: 30_000 });
    const before = issuer.asked;
    for (let count = 0; count < 5; count += 1)
      t.equal(await verify(await issuer.token(next)), notSigned);
    t.equal(issuer.asked - before, 1);
    t.equal(await verify(await issuer.token(key)), 'user');
    t.equal(issuer.asked - before, 1);
  });

  t.test('accepts a new key at once and refuses a withdrawn key after the next fetch', async t => {
    const { verify } = createVerifier();
    const [old, fresh] = [await issuer.token(key), await issuer.token(next)];
    t.equal(await verify(old), 'user');
    await issuer.publish(key, next);
    t.equal(await verify(fresh), 'user');
    t.equal(await verify(old), 'user', 'both keys are valid');
    await issuer.publish(next, await makeIssuerKey('third'));
    t.equal(
      await verify(await issuer.token(await makeIssuerKey('fourth'))),
      notSigned,
      'an unknown kid triggers another fetch',
    );
    t.equal(await verify(old), notSigned);
    t.equal(await verify(fresh), 'user');
  });

  t.test('checks a token without kid against each suitable key', async t => {
    const of = (one: typeof key, claims = {}) => issuer.token(one, claims, { kid: undefined });
    const third = await makeIssuerKey('third');
    t.equal(await createVerifier().verify(await of(key)), 'user');
    t.equal(await createVerifier().verify(await of(next)), notSigned);
    await issuer.publish(key, next);
    const { verify } = createVerifier();
    t.equal(await verify(await of(key)), 'user', 'the first of two');
    t.equal(await verify(await of(next)), 'user', 'the second');
    t.equal(await verify(await of(third)), notSigned, 'neither');
    t.equal(await verify(await of(next, { exp: 1 })), 'The token has expired.');
  });

  const faults: readonly [what: string, answer: (response: http.ServerResponse) => void][] = [
    ['hangs up', response => response.destroy()],
    ['500', response => response.writeHead(500).end('{"keys":[]}')],
    ['404', response => response.writeHead(404).end()],
    ['204', response => response.writeHead(204).end()],
    [
      'a redirect',
      response => response.writeHead(302, { location: issuer.env['JWT_JWKS_URL'] }).end(),
    ],
    [
      'HTML',
      response => response.setHeader('content-type', 'text/html').end('<html>Sign in</html>'),
    ],
    ['nothing', response => response.end()],
    ['null', response => response.end('null')],
    ['a list', response => response.end('[]')],
    ['keys of another kind', response => response.end('{"keys":{"kid":"first"}}')],
    ['malformed keys', response => response.end('{"keys":[null,1,"x"]}')],
    [
      'a truncated body',
      response => response.writeHead(200, { 'content-length': '100' }).end('{"keys":['),
    ],
    ['a body that is too long', response => response.end(' '.repeat(2_000_000))],
    ['a body without end', endless],
  ];

  /** Writes until the client disconnects. */
  function endless(response: http.ServerResponse): void {
    const write = () => {
      while (!response.destroyed && response.write(' '.repeat(64 * 1024)));
    };
    response.on('drain', write);
    write();
  }

  t.test('answers unavailable if the keys cannot be fetched, but accepts known keys', async t => {
    for (const [what, answer] of faults) {
      const [old, fresh] = [await issuer.token(key), await issuer.token(next)];
      const { verify, pass, failures } = createVerifier();
      issuer.setAnswer(answer);
      t.equal(await verify(old), 'unavailable', `${what}: without known keys`);
      t.equal(failures.length, 1, what);
      issuer.setAnswer(null);
      t.equal(await verify(old), 'unavailable', `${what}: no new fetch during the cooldown`);
      pass(10);
      t.equal(await verify(old), 'user', `${what}: a fetch after the cooldown`);

      issuer.setAnswer(answer);
      t.equal(await verify(fresh), 'unavailable', `${what}: a key that may exist at the issuer`);
      t.equal(await verify(old), 'user', `${what}: a known key`);
      pass(23 * 3600);
      t.equal(await verify(old), 'user', `${what}: a known key for a day`);
      t.equal(
        await verify(await issuer.token({ ...next, kid: 'first' })),
        notSigned,
        `${what}: a forged token`,
      );
      issuer.setAnswer(null);
    }
  });

  t.test('refuses known keys after a day without an answer of the issuer', async t => {
    const { verify, pass } = createVerifier();
    const [old, fresh] = [await issuer.token(key), await issuer.token(next)];
    t.equal(await verify(old), 'user');
    issuer.setAnswer(response => response.destroy());
    pass(24 * 3600);
    t.equal(await verify(fresh), 'unavailable', 'an unknown kid triggers a fetch');
    t.equal(await verify(old), 'unavailable');
  });

  t.test('answers unavailable if nothing listens at the URL of the keys', async t => {
    const { verify } = createVerifier({ url: 'http://127.0.0.1:1/keys' });
    t.equal(await verify(await issuer.token(key)), 'unavailable');
  });

  t.test('refuses every token for keys that cannot verify a signature', async t => {
    const jwk = await exportJWK(key.publicKey);
    const privateJwk = await exportJWK(key.privateKey);
    const odd = [
      { ...jwk, x: 'AAAA' },
      { ...jwk, crv: 'P-384' },
      { ...jwk, use: 'enc' },
      { ...jwk, alg: 'RS256' },
      { kty: 'EC' },
      { kty: 'RSA', n: 'AQAB', e: 'AQAB' },
      { kty: 'oct', k: 'c2VjcmV0' },
      privateJwk,
    ];
    const [token, rsaToken] = [
      await issuer.token(key),
      await issuer.token({ ...rsa, kid: 'first' }),
    ];
    for (const one of odd) {
      const { verify, failures } = createVerifier();
      issuer.setAnswer(response =>
        response.end(JSON.stringify({ keys: [{ ...one, kid: 'first' }] })),
      );
      for (const each of [token, rsaToken])
        t.equal(await verify(each), notSigned, JSON.stringify(Object.keys(one)));
      t.equal(failures.length, 0, 'no network error, so known keys are not used instead');
    }
  });

  t.test('accepts only the supported algorithms for a key without an algorithm', async t => {
    const jwk = await exportJWK(rsa.publicKey);
    issuer.setAnswer(response => response.end(JSON.stringify({ keys: [{ ...jwk, kid: 'rsa' }] })));
    const { verify } = createVerifier();
    t.equal(await verify(await issuer.token(rsa)), 'user');
    for (const alg of ['PS256', 'RS384', 'RS512']) {
      const privateKey = await importJWK(await exportJWK(rsa.privateKey), alg);
      if (privateKey instanceof Uint8Array) throw new Error('expected an RSA key, not a secret');
      t.equal(
        await verify(await issuer.token({ ...rsa, privateKey }, {}, { alg })),
        notSigned,
        alg,
      );
    }
  });

  t.test('answers 503 with Retry-After in time and logs it once if the issuer stalls', async t => {
    const stalled = await startApp(t, {
      databaseUrl: app.database.url,
      env: issuer.env,
      adjust: made => ({
        ...made,
        userTokens: createUserTokens(
          verifierConfig(),
          createIssuerKeys(new URL(issuer.env['JWT_JWKS_URL'] ?? ''), {
            now: made.now,
            onError: error => made.log.warn({ err: error }, 'identity provider keys unavailable'),
            timeoutMs: 500,
          }),
        ),
      }),
    });
    const token = await issuer.token(key);
    const read = () => stalled.call('/v1/environments/acme', { token });
    // The first answer has no headers, the second no end of its body.
    for (const answer of [
      () => {},
      (response: http.ServerResponse) => void response.write('{"keys":'),
    ]) {
      issuer.setAnswer(answer);
      const before = performance.now();
      const answers = await Promise.all([read(), read(), read()]);
      t.ok(performance.now() - before < 4_000, 'the time limit is 0.5 s');
      for (const { status, json, headers } of [...answers, await read()]) {
        t.equal(status, 503);
        t.equal(json.code, 'unavailable');
        t.equal(headers['retry-after'], '10');
      }
      t.equal(
        (await stalled.call('/v1/environments/acme')).status,
        200,
        'the operator still gets an answer',
      );
      stalled.setNow(new Date(start + 10_000).toISOString());
    }
    const logged = stalled.log.filter(({ msg }) => msg === 'identity provider keys unavailable');
    t.equal(logged.length, 2);
    t.ok(!JSON.stringify(stalled.log).includes(token));
    issuer.setAnswer(null);
    stalled.setNow(new Date(start + 20_000).toISOString());
    t.equal((await read()).status, 200);
  });
});
