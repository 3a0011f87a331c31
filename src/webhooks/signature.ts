/**
 * Signs messages by Standard Webhooks, version 1:
 * https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
 */
import { createHmac, randomBytes } from 'node:crypto';

const prefix = 'whsec_';

export function makeWebhookSecret(): string {
  return `${prefix}${randomBytes(32).toString('base64')}`;
}

export interface SignedMessage {
  /** Id of the message, equal for all attempts. */
  readonly id: string;
  readonly body: string;
}

/**
 * Returns the headers that sign a message.
 * @param sentAt time of this attempt, so that the receiver can reject replayed messages
 */
export function signatureHeaders(
  secret: string,
  { id, body }: SignedMessage,
  sentAt: Date,
): Record<string, string> {
  const timestamp = String(Math.floor(sentAt.getTime() / 1000));
  const key = Buffer.from(secret.slice(prefix.length), 'base64');
  const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64');
  return {
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': `v1,${signature}`,
  };
}
