import type http from 'node:http';
import { exportJWK, importJWK } from 'jose';
import t from 'tap';
import { createIssuerKeys } from '../../../src/environments/auth/jwks.ts';
import { createUserTokens } from '../../../src/environments/auth/jwt.ts';
import { AppError } from '../../../src/shared/errors.ts';
import { startTestApp, testNow } from '../../helpers/app.ts';
import { issuerAudience, issuerName, makeIssuerKey, startIssuer } from '../../helpers/issuer.ts';

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
  const app = await startTestApp(t, { env: issuer.env });
  await app.putEnvironment('acme', 'pro');
  const status = async (one: typeof key) =>
    (await app.call('/v1/environments/acme', { token: await of(one) })).status;
  t.strictSame([await status(key), await status(next), await status(third)], [200, 200, 401]);
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
  ['HTML', response => response.setHeader('content-type', 'text/html').end('<html>Sign in</html>')],
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
    await issuer.token(await makeIssuerKey('first', 'RS256')),
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
  const rsa = await makeIssuerKey('rsa', 'RS256');
  const jwk = await exportJWK(rsa.publicKey);
  issuer.setAnswer(response => response.end(JSON.stringify({ keys: [{ ...jwk, kid: 'rsa' }] })));
  const { verify } = createVerifier();
  t.equal(await verify(await issuer.token(rsa)), 'user');
  for (const alg of ['PS256', 'RS384', 'RS512']) {
    const privateKey = await importJWK(await exportJWK(rsa.privateKey), alg);
    if (privateKey instanceof Uint8Array) throw new Error('expected an RSA key, not a secret');
    t.equal(await verify(await issuer.token({ ...rsa, privateKey }, {}, { alg })), notSigned, alg);
  }
});

t.test('answers 503 with Retry-After in time and logs it once if the issuer stalls', async t => {
  const app = await startTestApp(t, {
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
  await app.putEnvironment('acme', 'pro');
  const token = await issuer.token(key);
  const read = () => app.call('/v1/environments/acme', { token });
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
      (await app.call('/v1/environments/acme')).status,
      200,
      'the operator still gets an answer',
    );
    app.setNow(new Date(start + 10_000).toISOString());
  }
  const logged = app.log.filter(({ msg }) => msg === 'identity provider keys unavailable');
  t.equal(logged.length, 2);
  t.ok(!JSON.stringify(app.log).includes(token));
  issuer.setAnswer(null);
  app.setNow(new Date(start + 20_000).toISOString());
  t.equal((await read()).status, 200);
});
