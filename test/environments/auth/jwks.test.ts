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

/** Takes tokens as the service does, with no keys yet. @returns `user`, a sentence, or the code of what is thrown */
function createVerifier({ url = issuer.env['JWT_JWKS_URL'] ?? '', cooldownMs = 0 } = {}) {
  let nowMs = start;
  const failures: unknown[] = [];
  const now = () => new Date(nowMs);
  const keyOf = createIssuerKeys(new URL(url), {
    now,
    onError: error => failures.push(error),
    cooldownMs,
  });
  const config = {
    issuer: issuerName,
    audience: issuerAudience,
    jwksUrl: new URL(url),
    environmentsClaim: 'environments',
    scopesClaim: 'scope',
  };
  const tokens = createUserTokens(config, keyOf);
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

t.test(
  'an unknown kid asks the issuer once more, then no sooner than after the cooldown',
  async t => {
    const { verify } = createVerifier({ cooldownMs: 30_000 });
    const before = issuer.asked;
    for (let count = 0; count < 5; count += 1)
      t.equal(await verify(await issuer.token(next)), notSigned);
    t.equal(issuer.asked - before, 1);
    t.equal(await verify(await issuer.token(key)), 'user');
    t.equal(issuer.asked - before, 1);
  },
);

t.test('key roll-over: the new key counts at once, the withdrawn one no more', async t => {
  const { verify } = createVerifier();
  const [old, fresh] = [await issuer.token(key), await issuer.token(next)];
  t.equal(await verify(old), 'user');
  await issuer.publish(key, next);
  t.equal(await verify(fresh), 'user');
  t.equal(await verify(old), 'user', 'both, for a while');
  await issuer.publish(next, await makeIssuerKey('third'));
  t.equal(
    await verify(await issuer.token(await makeIssuerKey('fourth'))),
    notSigned,
    'makes it ask again',
  );
  t.equal(await verify(old), notSigned);
  t.equal(await verify(fresh), 'user');
});

t.test('tokens without kid: any key that fits may have signed it', async t => {
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
  ['keys that are none', response => response.end('{"keys":[null,1,"x"]}')],
  [
    'a body cut off',
    response => response.writeHead(200, { 'content-length': '100' }).end('{"keys":['),
  ],
  ['too long a body', response => response.end(' '.repeat(2_000_000))],
  ['a body without end', endless],
];

/** Writes until nobody reads. */
function endless(response: http.ServerResponse): void {
  const write = () => {
    while (!response.destroyed && response.write(' '.repeat(64 * 1024)));
  };
  response.on('drain', write);
  write();
}

t.test('keys that cannot be fetched: unavailable, and known keys go on counting', async t => {
  for (const [what, answer] of faults) {
    const [old, fresh] = [await issuer.token(key), await issuer.token(next)];
    const { verify, pass, failures } = createVerifier();
    issuer.setAnswer(answer);
    t.equal(await verify(old), 'unavailable', `${what}: before any key is known`);
    t.equal(failures.length, 1, what);
    issuer.setAnswer(null);
    t.equal(await verify(old), 'unavailable', `${what}: the issuer is left alone for a while`);
    pass(10);
    t.equal(await verify(old), 'user', `${what}: then asked again`);

    issuer.setAnswer(answer);
    t.equal(
      await verify(fresh),
      'unavailable',
      `${what}: whether the issuer has the key is not known`,
    );
    t.equal(await verify(old), 'user', `${what}: a known key`);
    pass(23 * 3600);
    t.equal(await verify(old), 'user', `${what}: for a day`);
    t.equal(
      await verify(await issuer.token({ ...next, kid: 'first' })),
      notSigned,
      `${what}: a forged token`,
    );
    issuer.setAnswer(null);
  }
});

t.test('keys that are known do not count for longer than a day without their issuer', async t => {
  const { verify, pass } = createVerifier();
  const [old, fresh] = [await issuer.token(key), await issuer.token(next)];
  t.equal(await verify(old), 'user');
  issuer.setAnswer(response => response.destroy());
  pass(24 * 3600);
  t.equal(await verify(fresh), 'unavailable', 'makes it ask');
  t.equal(await verify(old), 'unavailable');
});

t.test('nothing listens there', async t => {
  const { verify } = createVerifier({ url: 'http://127.0.0.1:1/keys' });
  t.equal(await verify(await issuer.token(key)), 'unavailable');
});

t.test('keys that no token can be proven with', async t => {
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
    t.equal(failures.length, 0, 'no fault of the network, so known keys are not fallen back on');
  }
});

t.test('a key that names no algorithm serves none but ours', async t => {
  const rsa = await makeIssuerKey('rsa', 'RS256');
  const jwk = await exportJWK(rsa.publicKey);
  issuer.setAnswer(response => response.end(JSON.stringify({ keys: [{ ...jwk, kid: 'rsa' }] })));
  const { verify } = createVerifier();
  t.equal(await verify(await issuer.token(rsa)), 'user');
  for (const alg of ['PS256', 'RS384', 'RS512']) {
    const privateKey = await importJWK(await exportJWK(rsa.privateKey), alg);
    if (privateKey instanceof Uint8Array) throw new Error('an RSA key is no secret');
    t.equal(await verify(await issuer.token({ ...rsa, privateKey }, {}, { alg })), notSigned, alg);
  }
});

t.test('over HTTP: 503 with Retry-After, in bounded time, and in the log once', async t => {
  const app = await startTestApp(t, { env: issuer.env });
  await app.putEnvironment('acme', 'pro');
  const token = await issuer.token(key);
  const read = () => app.call('/v1/environments/acme', { token });
  // Neither the headers nor the end of the body ever come.
  for (const answer of [
    () => {},
    (response: http.ServerResponse) => void response.write('{"keys":'),
  ]) {
    issuer.setAnswer(answer);
    const before = performance.now();
    const answers = await Promise.all([read(), read(), read()]);
    t.ok(performance.now() - before < 9_000, 'the time limit is 5 s');
    for (const { status, json, headers } of [...answers, await read()]) {
      t.equal(status, 503);
      t.equal(json.code, 'unavailable');
      t.equal(headers['retry-after'], '10');
    }
    t.equal((await app.call('/v1/environments/acme')).status, 200, 'the operator is not held up');
    app.setNow(new Date(start + 10_000).toISOString());
  }
  const logged = app.log.filter(({ msg }) => /keys of the identity provider/.test(String(msg)));
  t.equal(logged.length, 2);
  t.ok(!JSON.stringify(app.log).includes(token));
  issuer.setAnswer(null);
  app.setNow(new Date(start + 20_000).toISOString());
  t.equal((await read()).status, 200);
});
