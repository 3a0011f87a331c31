import type { WebhookJob } from '../db/job-queue.ts';
import { selectDelivery } from './select-delivery.ts';
import { signAndSend } from './sign-and-send.ts';
import type { WebhookDependencies } from './try-webhook.ts';

/** The receiver says that it is gone for good. It may have been a slip, so the webhook stays. */
const goneStatus = 410;

/**
 * One try at one event. Nothing is sent when the webhook or what the event is about was removed meanwhile.
 * @param isLast no try comes after this one
 * @throws Error that says the kind of failure and no more, of which the queue makes another try later
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
  if (delivered) return log.info(line, 'failure webhook delivered');
  if (status === goneStatus) return log.warn(line, 'failure webhook is gone: the event is dropped');
  log.warn(
    line,
    isLast ? 'failure webhook not delivered: given up' : 'failure webhook not delivered yet',
  );
  throw new Error(error?.code ?? 'unknown');
}
