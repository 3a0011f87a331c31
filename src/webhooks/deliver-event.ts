import type { WebhookJob } from '../db/job-queue.ts';
import { selectDelivery } from './select-delivery.sql.ts';
import { signAndSend } from './sign-and-send.ts';
import type { WebhookDependencies } from './try-webhook.ts';

/**
 * Status of a receiver that is permanently gone. The webhook is kept, because the status may be a
 * mistake.
 */
const goneStatus = 410;

/**
 * Attempts to deliver an event. Sends nothing if the webhook, the config or the environment was
 * deleted.
 * @param isLast true if no attempt follows
 * @throws Error with only the error code, after which the queue retries
 */
export async function deliverEvent(
  dependencies: WebhookDependencies,
  job: WebhookJob,
  isLast: boolean,
): Promise<void> {
  const { db, log, now } = dependencies;
  const found = await selectDelivery(db, job);
  if (found === null) return;
  const { webhook, event } = found;
  const body = JSON.stringify({
    type: event.type,
    timestamp: event.createdAt.toISOString(),
    data: event.data,
  });
  const message = { id: job.eventId, body };
  const { delivered, status, error } = await signAndSend(dependencies, webhook, message, now());
  const line = {
    ...job,
    type: event.type,
    status,
    ...(error === null ? {} : { code: error.code }),
  };
  if (delivered) return log.info(line, 'webhook event delivered');
  if (status === goneStatus) return log.warn(line, 'webhook event dropped');
  log.warn(line, isLast ? 'webhook event given up' : 'webhook event not delivered');
  throw new Error(error?.code ?? 'unknown');
}
