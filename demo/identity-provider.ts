import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';

/** A minimal identity provider, so that the settings page has a token of a user. */
export interface IdentityProvider {
  /** Variables that make the service trust it. */
  readonly env: Readonly<Record<string, string>>;
  /** Returns an access token that is valid for an hour. */
  createToken(claims: { environments: string; scope: string }): Promise<string>;
  readonly stop: () => Promise<void>;
}

/** Starts it on a free port of 127.0.0.1. */
export async function startIdentityProvider(): Promise<IdentityProvider> {
  const algorithm = 'ES256';
  const { privateKey, publicKey } = await generateKeyPair(algorithm);
  const keys = JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), alg: algorithm }] });
  const server = createServer((_request, response) =>
    response.setHeader('content-type', 'application/json').end(keys),
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const audience = 'warehouse-export';
  return {
    env: { JWT_ISSUER: origin, JWT_AUDIENCE: audience, JWT_JWKS_URL: `${origin}/keys` },
    createToken: claims =>
      new SignJWT(claims)
        .setProtectedHeader({ alg: algorithm })
        .setIssuer(origin)
        .setAudience(audience)
        .setSubject('demo-user')
        .setExpirationTime('1h')
        .sign(privateKey),
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
