import type { Webhooks } from './generated/types.gen.ts';

/** Event of the webhook, a discriminated union by `type`. */
export type WebhookEvent = Webhooks['body'];

export interface VerifyWebhookOptions {
  /** Secret that starts with `whsec_`. During a rotation, give the old and the new one. */
  readonly secret: string | readonly string[];
  /** Headers of the request: `Headers`, or an object with names in lower case as in Node. */
  readonly headers: Headers | Readonly<Record<string, string | readonly string[] | undefined>>;
  /** Body exactly as it was received. */
  readonly body: string | Uint8Array;
  /** Largest difference between `webhook-timestamp` and the clock in seconds. Default 300. */
  readonly toleranceSeconds?: number;
  /** Default: the current time. */
  readonly now?: Date;
}

/** Error of a webhook message that this service did not sign, or that is too old. */
export class WebhookVerificationError extends Error {
  override readonly name = 'WebhookVerificationError';
}

/**
 * Verifies the signature of a webhook message by Standard Webhooks.
 *
 * @returns the event. Repeated messages have the same `webhook-id`. This function accepts them.
 * @throws {WebhookVerificationError}
 */
export async function verifyWebhook(options: VerifyWebhookOptions): Promise<WebhookEvent> {
  const { headers, toleranceSeconds = 300, now = new Date() } = options;
  const id = readHeader(headers, 'webhook-id');
  const timestamp = readHeader(headers, 'webhook-timestamp');
  const signatures = readHeader(headers, 'webhook-signature');
  const ageSeconds = now.getTime() / 1000 - Number(timestamp);
  // NaN is not within the tolerance.
  if (!(Math.abs(ageSeconds) <= toleranceSeconds)) {
    throw new WebhookVerificationError(
      `webhook-timestamp is more than ${toleranceSeconds} s away from the clock: ${timestamp}`,
    );
  }
  const body =
    typeof options.body === 'string' ? options.body : new TextDecoder().decode(options.body);
  const message = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
  const candidates = signatures
    .split(' ')
    .filter(signature => signature.startsWith('v1,'))
    .map(signature => fromBase64(signature.slice(3)));
  for (const secret of [options.secret].flat()) {
    const key = await importKey(secret);
    for (const candidate of candidates) {
      if (candidate !== null && (await crypto.subtle.verify('HMAC', key, candidate, message))) {
        return JSON.parse(body) as WebhookEvent;
      }
    }
  }
  throw new WebhookVerificationError('webhook-signature does not match the body and the secret');
}

function readHeader(headers: VerifyWebhookOptions['headers'], name: string): string {
  const value = headers instanceof Headers ? headers.get(name) : headers[name];
  if (typeof value === 'string' && value !== '') return value;
  throw new WebhookVerificationError(`The header ${name} is missing`);
}

async function importKey(secret: string) {
  const key = fromBase64(secret.replace(/^whsec_/, ''));
  if (key === null || key.length === 0) {
    throw new TypeError('The webhook secret must be whsec_ followed by Base64');
  }
  return crypto.subtle.importKey('raw', key, { name: 'HMAC', hash: 'SHA-256' }, false, ['verify']);
}

/** Returns null if the text is not Base64. */
function fromBase64(text: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.from(atob(text), character => character.charCodeAt(0));
  } catch {
    return null;
  }
}
