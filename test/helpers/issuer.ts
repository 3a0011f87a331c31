import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  type CryptoKey,
  exportJWK,
  generateKeyPair,
  type JSONWebKeySet,
  type JWTPayload,
  SignJWT,
} from 'jose';
import { testNow } from './app.ts';
import { registerSecret } from './secrets.ts';

export type Algorithm = 'RS256' | 'ES256' | 'EdDSA';

export interface IssuerKey {
  readonly kid: string;
  readonly alg: Algorithm;
  readonly privateKey: CryptoKey;
  readonly publicKey: CryptoKey;
}

/** An identity provider on this machine. */
export interface Issuer {
  /** Variables that make the service trust it. */
  readonly env: Readonly<Record<string, string>>;
  /** Number of requests for the keys. */
  readonly asked: number;
  /** Sets the answer to requests for the keys. Null restores the key set. */
  setAnswer(answer: ((response: http.ServerResponse) => void) | null): void;
  /** Publishes these keys instead of all others. */
  publish(...keys: readonly IssuerKey[]): Promise<void>;
  /** Returns a valid token, changed by `claims` and `header`. An undefined claim is left out. */
  token(
    key: IssuerKey,
    claims?: Readonly<Record<string, unknown>>,
    header?: Record<string, unknown>,
  ): Promise<string>;
}

export const issuerName = 'https://login.example.com/';
export const issuerAudience = 'warehouse-export';

export const inSeconds = (seconds: number) => Math.floor(Date.parse(testNow) / 1000) + seconds;

export async function makeIssuerKey(kid: string, alg: Algorithm = 'ES256'): Promise<IssuerKey> {
  return { kid, alg, ...(await generateKeyPair(alg, { extractable: true })) };
}

export async function startIssuer(t: {
  teardown(handler: () => Promise<void>): void;
}): Promise<Issuer> {
  let keySet: JSONWebKeySet = { keys: [] };
  let answer: ((response: http.ServerResponse) => void) | null = null;
  let asked = 0;
  const server = http.createServer((_request, response) => {
    asked += 1;
    if (answer !== null) answer(response);
    else response.setHeader('content-type', 'application/json').end(JSON.stringify(keySet));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });
  const { port } = server.address() as AddressInfo;
  return {
    env: {
      JWT_ISSUER: issuerName,
      JWT_AUDIENCE: issuerAudience,
      JWT_JWKS_URL: `http://127.0.0.1:${port}/keys`,
    },
    get asked() {
      return asked;
    },
    setAnswer: next => {
      answer = next;
    },
    async publish(...keys) {
      const jwks = keys.map(async ({ kid, alg, publicKey }) => ({
        ...(await exportJWK(publicKey)),
        kid,
        alg,
        use: 'sig',
      }));
      keySet = { keys: await Promise.all(jwks) };
    },
    async token({ kid, alg, privateKey }, claims = {}, header = {}) {
      const payload: Record<string, unknown> = {
        iss: issuerName,
        aud: issuerAudience,
        sub: 'user-1',
        exp: inSeconds(600),
        environments: ['acme'],
        scope: 'openid exports:read',
        ...claims,
      };
      return registerSecret(
        await new SignJWT(payload as JWTPayload)
          .setProtectedHeader({ alg, kid, ...header })
          .sign(privateKey),
      );
    },
  };
}
