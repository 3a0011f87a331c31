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
  /**
   * Shortest time between two fetches that unknown `kid`s cause, in milliseconds. Default: 30,000.
   */
  readonly cooldownMs?: number;
}

/** Longest wait of a caller for the issuer. */
const timeoutMs = 5_000;

/** Pause after a failed fetch. Meanwhile only the cached keys count. */
const quietSeconds = 10;

/** Age at which keys are fetched again. It limits how long a withdrawn key stays trusted. */
const freshMs = 10 * 60_000;

/** Age up to which cached keys count while the issuer cannot be reached. */
const staleMs = 24 * 60 * 60_000;

/** Limit of the response body. A usual key set has a few kilobytes. */
const maxBodyBytes = 1024 * 1024;

class IssuerUnreachable extends Error {
  override readonly name = 'IssuerUnreachable';
}

/**
 * Creates a function that finds the key of a token in the issuer's JWKS. Keys are cached. An
 * unknown key causes another fetch.
 * @throws JOSEError if the issuer has no such key
 * @throws AppError `unavailable` if the key set cannot be fetched and no cached key fits
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
    // A clock that was set back must not prolong the pause.
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

/**
 * Fetches and checks a key set.
 * @throws Error for network errors, timeouts, and an unexpected status, length or content
 */
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
