import type { Logger } from 'pino';
import type { ClientEnvironment } from '../destinations/s3/client.ts';
import type { EncryptionKeys } from '../encryption/secrets.ts';
import { type SendResult, sendWebhook } from './send-webhook.ts';
import type { SignedMessage } from './signature.ts';
import { type Webhook, webhookSecretOf } from './webhooks-repository.ts';

interface SendDependencies {
  readonly log: Logger;
  readonly encryptionKeys: EncryptionKeys;
  readonly clientEnvironment: ClientEnvironment;
}

/**
 * Signs and sends a message. Sends nothing if the secret cannot be decrypted, and logs the reason
 * for the operator.
 */
export async function signAndSend(
  { log, encryptionKeys, clientEnvironment }: SendDependencies,
  webhook: Webhook,
  message: SignedMessage,
  sentAt: Date,
): Promise<SendResult> {
  let secret: string;
  try {
    secret = webhookSecretOf(encryptionKeys, webhook);
  } catch (error) {
    log.error({ err: error, environmentId: webhook.environmentId }, 'webhook secret unreadable');
    return secretUnreadable;
  }
  return await sendWebhook(clientEnvironment, webhook.url, secret, message, sentAt);
}

const secretUnreadable: SendResult = {
  delivered: false,
  status: null,
  error: {
    code: 'secret_unreadable',
    message:
      'The secret cannot be decrypted with the configured encryption keys. Restore its key, or rotate the secret.',
  },
};
