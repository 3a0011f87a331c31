import { urlToHttpOptions } from 'node:url';
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  customFetch,
  errors,
  type JWTVerifyGetKey,
} from 'jose';
import { type ExchangeLimits, exchange } from '../../outbound/http-exchange.ts';
import { AppError } from '../../shared/errors.ts';

interface IssuerKeyOptions {
  readonly now: () => Date;
  readonly onError: (error: unknown) => void;
  /**
   * Shortest time between two fetches that unknown `kid`s cause, in milliseconds. Default: 30,000.
   */
  readonly cooldownMs?: number;
  /** Longest wait of a caller for the issuer, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number;
}

/** Pause after a failed fetch. Meanwhile only the cached keys count. */
const quietSeconds = 10;

/** Age at which keys are fetched again. It limits how long a withdrawn key stays trusted. */
const freshMs = 10 * 60_000;

/** Age up to which cached keys count while the issuer cannot be reached. */
const staleMs = 24 * 60 * 60_000;

const limits: Omit<ExchangeLimits, 'connectMs' | 'totalMs'> = {
  // A key set is a few kilobytes. Parsing blocks the event loop, and each key costs time.
  answerBytes: 64 * 1024,
  isBodyOptional: () => false,
};

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
  { now, onError, cooldownMs = 30_000, timeoutMs = 5_000 }: IssuerKeyOptions,
): JWTVerifyGetKey {
  let heardAtMs = Number.NEGATIVE_INFINITY;
  let failedAtMs = Number.NEGATIVE_INFINITY;
  const remote = createRemoteJWKSet(url, {
    timeoutDuration: timeoutMs,
    cooldownDuration: cooldownMs,
    cacheMaxAge: freshMs,
    [customFetch]: async (address, init) => {
      try {
        const response = await fetchKeySet(address, init, timeoutMs);
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
  init: { method: 'GET'; signal: AbortSignal; headers: Headers },
  timeoutMs: number,
): Promise<Response> {
  const isSecure = url.startsWith('https:');
  const options = {
    ...urlToHttpOptions(new URL(url)),
    headers: Object.fromEntries(init.headers),
    agent: false,
  };
  const allLimits = { ...limits, connectMs: timeoutMs, totalMs: timeoutMs };
  const { status, body } = await exchange(isSecure, options, '', allLimits, init.signal);
  if (status !== 200) throw new Error(`The key set was answered with status ${status}.`);
  const keys = JSON.parse(body.toString());
  createLocalJWKSet(keys);
  return Response.json(keys);
}
