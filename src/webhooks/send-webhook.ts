import http from 'node:http';
import https from 'node:https';
import tls from 'node:tls';
import type { ClientEnvironment } from '../destinations/s3/client.ts';
import { causeOf, NotS3Error } from '../destinations/s3/error-codes.ts';
import { createGuardedAgents } from '../outbound/endpoint-guard.ts';
import { type SignedMessage, signatureHeaders } from './signature.ts';

export type SendErrorCode =
  | 'endpoint_not_allowed'
  | 'endpoint_unreachable'
  | 'timeout'
  | 'tls_error'
  | 'not_http'
  | 'not_accepted'
  | 'secret_unreadable'
  | 'unknown';

/** What came of one try. Nothing of an answer is repeated but its status. */
export interface SendResult {
  /** It was answered with 2xx. */
  readonly delivered: boolean;
  /** Null: there was no answer. */
  readonly status: number | null;
  readonly error: { readonly code: SendErrorCode; readonly message: string } | null;
}

/** Of the whole try, from the name servers to the answer. */
const timeoutMs = 10_000;
/** Of an answer is read so much that its sender can finish; nobody looks at it. */
const maxAnswerBytes = 64 * 1024;

/** One signed POST, guarded like custom endpoints. Redirects are not followed. Never throws for what the other side does. */
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
  const isHttps = url.startsWith('https:');
  const request = (isHttps ? https : http).request(url, {
    method: 'POST',
    agent: isHttps ? httpsAgent : httpAgent,
    headers: {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(message.body),
      'user-agent': 'warehouse-export',
      ...signatureHeaders(secret, message, sentAt),
    },
    signal: AbortSignal.timeout(timeoutMs),
  });
  try {
    const response = await answerTo(request, message.body);
    await readToEnd(response);
    return describeAnswer(response.statusCode ?? 0);
  } catch (error) {
    return { delivered: false, status: null, error: describeError(error) };
  } finally {
    request.destroy();
    httpAgent.destroy();
    httpsAgent.destroy();
  }
}

function answerTo(request: http.ClientRequest, body: string): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve);
    // Stays: what breaks after the answer came must not end the process.
    request.on('error', reject);
    // An answer that changes the protocol ends the request without either.
    request.once('close', () => reject(new NotS3Error('no answer')));
    request.end(body);
  });
}

async function readToEnd(response: http.IncomingMessage): Promise<void> {
  let bytes = 0;
  try {
    for await (const chunk of response) {
      bytes += (chunk as Buffer).length;
      if (bytes > maxAnswerBytes) return;
    }
  } catch {
    // The status came, and it alone counts.
  }
}

function describeAnswer(status: number): SendResult {
  if (status >= 200 && status < 300) return { delivered: true, status, error: null };
  const redirects = status >= 300 && status < 400 ? ' Redirects are not followed.' : '';
  const message = `The receiver answered ${status}; only 2xx says that it took the message.${redirects}`;
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
        message: `The receiver did not answer within ${timeoutMs / 1000} s.`,
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
