import {
  createLocalJWKSet,
  createRemoteJWKSet,
  customFetch,
  errors,
  type JWTVerifyGetKey,
} from 'jose';
import { AppError } from '../../shared/errors.ts';

interface IssuerKeyOptions {
  readonly now: () => Date;
  readonly onError: (error: unknown) => void;
  /** An unknown `kid` asks the issuer again, but no sooner than this after its last answer. */
  readonly cooldownMs?: number;
}

/** The longest that a caller waits for the issuer. */
const timeoutMs = 5_000;

/** After a failure the issuer is left alone for so long; meanwhile the keys that are known decide. */
const quietSeconds = 10;

/** Keys are asked for anew after this, so that one the issuer has withdrawn is not trusted for longer. */
const freshMs = 10 * 60_000;

/** While the issuer cannot be reached, the keys it gave last go on counting for so long. */
const staleMs = 24 * 60 * 60_000;

/** A key set is a few kilobytes. */
const maxBodyBytes = 1024 * 1024;

class IssuerUnreachable extends Error {
  override readonly name = 'IssuerUnreachable';
}

/**
 * Finds the key of a token at the issuer's JWKS address. What it gives is kept; a key that is not known makes it ask again.
 * @throws JOSEError where the issuer has no such key, AppError `unavailable` where that cannot be found out
 */
export function createIssuerKeys(
  url: URL,
  { now, onError, cooldownMs = 30_000 }: IssuerKeyOptions,
): JWTVerifyGetKey {
  let heardAtMs = Number.NEGATIVE_INFINITY;
  let failedAtMs = Number.NEGATIVE_INFINITY;
  const remote = createRemoteJWKSet(url, {
    timeoutDuration: timeoutMs,
    cooldownDuration: cooldownMs,
    cacheMaxAge: freshMs,
    [customFetch]: async (address, init) => {
      try {
        const response = await fetchKeySet(address, init);
        heardAtMs = now().getTime();
        return response;
      } catch (error) {
        failedAtMs = now().getTime();
        onError(error);
        throw new IssuerUnreachable('The key set cannot be fetched.', { cause: error });
      }
    },
  });

  const known: JWTVerifyGetKey = async (header, token) => {
    const keys = now().getTime() - heardAtMs < staleMs ? remote.jwks() : undefined;
    try {
      if (keys !== undefined) return await createLocalJWKSet(keys)(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
    }
    throw new AppError(
      'unavailable',
      'The identity provider cannot be reached. Try again shortly.',
      {
        headers: { 'retry-after': String(quietSeconds) },
      },
    );
  };

  return async (header, token) => {
    const sinceFailureMs = now().getTime() - failedAtMs;
    // A clock that was put back must not make it long.
    if (sinceFailureMs >= 0 && sinceFailureMs < quietSeconds * 1000)
      return await known(header, token);
    try {
      return await remote(header, token);
    } catch (error) {
      if (!(error instanceof IssuerUnreachable)) throw error;
      return await known(header, token);
    }
  };
}

/** @throws whatever keeps it from being a key set: the network, the time limit, its status, its length, what is in it */
async function fetchKeySet(
  url: string,
  init: { method: 'GET'; signal: AbortSignal; redirect: 'manual'; headers: Headers },
): Promise<Response> {
  const response = await fetch(url, init);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > maxBodyBytes) throw new Error(`The key set is larger than ${maxBodyBytes} bytes.`);
    chunks.push(chunk);
  }
  if (response.status !== 200)
    throw new Error(`The key set was answered with status ${response.status}.`);
  const keys = JSON.parse(Buffer.concat(chunks).toString());
  createLocalJWKSet(keys);
  return Response.json(keys);
}
