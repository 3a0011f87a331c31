import type { Logger } from 'pino';
import type { ClientEnvironment } from '../destinations/s3/client.ts';
import type { EncryptionKeys } from '../encryption/secrets.ts';
import { type FailureWebhook, webhookSecretOf } from './failure-webhooks.ts';
import { type SendResult, sendWebhook } from './send-webhook.ts';
import type { SignedMessage } from './signature.ts';

interface SendDependencies {
  readonly log: Logger;
  readonly encryptionKeys: EncryptionKeys;
  readonly clientEnvironment: ClientEnvironment;
}

/** Nothing goes out unsigned: where the secret does not open, the operator reads in the log why. */
export async function signAndSend(
  { log, encryptionKeys, clientEnvironment }: SendDependencies,
  webhook: FailureWebhook,
  message: SignedMessage,
  sentAt: Date,
): Promise<SendResult> {
  let secret: string;
  try {
    secret = webhookSecretOf(encryptionKeys, webhook);
  } catch (error) {
    log.error(
      { err: error, environmentId: webhook.environmentId },
      'failure webhook secret does not open',
    );
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
      'The secret does not open under the configured encryption keys. Bring its key back, or rotate the secret.',
  },
};
