import type http from 'node:http';
import tls from 'node:tls';
import { urlToHttpOptions } from 'node:url';
import type { ClientEnvironment } from '../destinations/s3/client.ts';
import { causeOf } from '../destinations/s3/error-codes.ts';
import { createGuardedAgents } from '../outbound/endpoint-guard.ts';
import { type ExchangeLimits, exchange } from '../outbound/http-exchange.ts';
import { type SignedMessage, signatureHeaders } from './signature.ts';

export const sendErrorCodes = [
  'endpoint_not_allowed',
  'endpoint_unreachable',
  'timeout',
  'tls_error',
  'not_http',
  'not_accepted',
  'secret_unreadable',
  'unknown',
] as const;
export type SendErrorCode = (typeof sendErrorCodes)[number];

/** Result of one attempt. It contains nothing of the response except the status. */
export interface SendResult {
  /** True if the receiver answered with 2xx. */
  readonly delivered: boolean;
  /** Status of the response; null if there was none. */
  readonly status: number | null;
  readonly error: { readonly code: SendErrorCode; readonly message: string } | null;
}

const limits: ExchangeLimits = {
  connectMs: 5_000,
  totalMs: 10_000,
  // The answer is read so that its sender can finish. Its content is not used.
  answerBytes: 64 * 1024,
  isBodyOptional: () => true,
};

/**
 * Sends one signed POST, guarded like custom endpoints. Redirects are not followed. Does not throw
 * for errors of the receiver or the network.
 */
export async function sendWebhook(
  { allowlist, extraCa, resolve }: ClientEnvironment,
  url: string,
  secret: string,
  message: SignedMessage,
  sentAt: Date,
): Promise<SendResult> {
  const { httpAgent, httpsAgent } = createGuardedAgents(allowlist, {
    ...(extraCa === undefined ? {} : { ca: [...tls.rootCertificates, extraCa] }),
    ...(resolve === undefined ? {} : { resolve }),
  });
  const isSecure = url.startsWith('https:');
  const options: http.RequestOptions = {
    ...urlToHttpOptions(new URL(url)),
    method: 'POST',
    agent: isSecure ? httpsAgent : httpAgent,
    headers: {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(message.body),
      'user-agent': 'warehouse-export',
      ...signatureHeaders(secret, message, sentAt),
    },
  };
  try {
    return describeAnswer((await exchange(isSecure, options, message.body, limits)).status);
  } catch (error) {
    return { delivered: false, status: null, error: describeError(error) };
  } finally {
    httpAgent.destroy();
    httpsAgent.destroy();
  }
}

function describeAnswer(status: number): SendResult {
  if (status >= 200 && status < 300) return { delivered: true, status, error: null };
  const redirects = status >= 300 && status < 400 ? ' Redirects are not followed.' : '';
  const message = `The receiver answered ${status}; only 2xx confirms delivery.${redirects}`;
  return { delivered: false, status, error: { code: 'not_accepted', message } };
}

function describeError(error: unknown): SendResult['error'] {
  switch (causeOf(error).kind) {
    case 'endpoint_not_allowed':
      return {
        code: 'endpoint_not_allowed',
        message: 'The URL may not be used: it is not a public https address.',
      };
    case 'endpoint_unreachable':
      return {
        code: 'endpoint_unreachable',
        message: 'No connection to the receiver could be made or kept.',
      };
    case 'timeout':
      return {
        code: 'timeout',
        message: `The receiver did not answer within ${limits.totalMs / 1000} s.`,
      };
    case 'tls_error':
      return {
        code: 'tls_error',
        message:
          'No secure connection to the receiver: its certificate or protocol is not accepted.',
      };
    case 'not_s3':
      return { code: 'not_http', message: 'The receiver answered, but not with HTTP.' };
    default:
      return { code: 'unknown', message: 'The message could not be sent.' };
  }
}
