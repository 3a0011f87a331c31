import { setTimeout as delay } from 'node:timers/promises';
import { webhookQueue } from '../../src/db/job-queue.ts';
import { defaultEventTypes, type EventType, eventTypes } from '../../src/webhooks/events.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { startTcpProxy } from '../helpers/tcp-proxy.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { type Received, startWebhookReceiver } from '../helpers/webhook-receiver.ts';
import type { Random } from './random.ts';
import { throughOutages, type World } from './world.ts';

/** Receiver of all webhooks. It is sometimes unreachable, and refuses some messages. */

/** Event as the receiver has read it. */
export interface ReceivedEvent {
  readonly id: string;
  readonly environmentId: string;
  readonly type: EventType;
  readonly timestamp: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** True once the receiver has answered a message with 2xx. */
  isAccepted: boolean;
}

interface Webhook {
  readonly events: readonly EventType[];
  secret: string;
  oldSecret: string | null;
  /** Time until which messages may have the old secret, because they were signed before. */
  oldUntil: number;
  /** Time until which messages may have the secret of a rotation without an answer. */
  uncertainUntil: number;
}

export interface Webhooks {
  /** Events by id. */
  readonly received: ReadonlyMap<string, ReceivedEvent>;
  /** Returns the events that the environment has selected. */
  selectedBy(environmentId: string): readonly EventType[];
  /** Makes the receiver unreachable for a while. */
  goAway(random: Random): Promise<void>;
  /** Replaces the secret of a random environment. */
  rotateSecret(random: Random): Promise<void>;
}

/** Selections of the environments, in turn. */
const selections: readonly (readonly EventType[])[] = [
  eventTypes,
  ['export.succeeded', 'export.failed'],
  defaultEventTypes,
  ['export.succeeded', 'export.recovered'],
];
/** Longer than the service takes to send one message. */
const sendMs = 20_000;

/** Sets a webhook of each environment and starts its receiver. */
export async function startWebhooks(
  t: { teardown(handler: () => Promise<void>): void },
  world: World,
  random: Random,
  environmentIds: readonly string[],
): Promise<Webhooks> {
  const receiver = await startWebhookReceiver(t);
  const proxy = await startTcpProxy(Number(new URL(receiver.url).port));
  t.teardown(proxy.close);
  // The queue then notices sooner that a worker was killed during a delivery.
  await world.admin.query('update pgboss.queue set expire_seconds = 20 where name = $1', [
    webhookQueue,
  ]);
  const received = new Map<string, ReceivedEvent>();
  const webhooks = new Map<string, Webhook>();
  for (const [index, environmentId] of environmentIds.entries()) {
    const events = selections[index % selections.length] ?? eventTypes;
    const json = { url: `http://127.0.0.1:${proxy.port}/${environmentId}`, events };
    const path = `/v1/environments/${environmentId}/failure-webhook`;
    const made = await world.call('elder api', path, { method: 'PUT', json });
    if (made.status !== 201) throw new Error(made.text);
    const secret = registerSecret(made.json.failureWebhookSecret);
    const old = { oldSecret: null, oldUntil: 0, uncertainUntil: 0 };
    webhooks.set(environmentId, { events, secret, ...old });
  }

  /** Records a message. @returns null if it is wrong or cannot be checked yet */
  const record = (message: Received): ReceivedEvent | null => {
    const environmentId = message.path.replace('POST /', '');
    const webhook = webhooks.get(environmentId);
    if (webhook === undefined) {
      world.faults.push(`a message was sent to ${message.path}`);
      return null;
    }
    const { secret, oldSecret, oldUntil, uncertainUntil } = webhook;
    const isSigned =
      message.isSignedWith(secret) ||
      (oldSecret !== null && Date.now() < oldUntil && message.isSignedWith(oldSecret));
    if (!isSigned) {
      if (Date.now() > uncertainUntil)
        world.faults.push(`a message to ${environmentId} has a wrong signature: ${message.body}`);
      return null;
    }
    const id = String(message.headers['webhook-id']);
    const { type, timestamp, data } = message.json;
    const event = { id, environmentId, type, timestamp, data, isAccepted: false };
    world.counts.messages += 1;
    const before = received.get(id);
    if (before === undefined) {
      received.set(id, event);
      return event;
    }
    if (JSON.stringify({ ...before, isAccepted: false }) !== JSON.stringify(event))
      world.faults.push(`two messages have the id ${id}: ${JSON.stringify([before, event])}`);
    return before;
  };
  receiver.answer((response, message) => {
    const event = record(message);
    if (event !== null && random.chance(0.05)) {
      response.destroy();
      return;
    }
    const isAccepted = event !== null && random.chance(0.9);
    if (isAccepted) event.isAccepted = true;
    response.writeHead(event === null ? 401 : isAccepted ? 204 : 500).end();
  });

  return {
    received,
    selectedBy: environmentId => webhooks.get(environmentId)?.events ?? [],
    async goAway(random) {
      world.counts['receiver outages'] += 1;
      proxy.cut();
      await delay(random.integer(4_000));
      proxy.open();
    },
    async rotateSecret(random) {
      const [environmentId, webhook] = random.pick([...webhooks]);
      webhook.uncertainUntil = Infinity;
      let attempts = 0;
      await waitFor(
        'a new secret',
        async () => {
          attempts += 1;
          const path = `/v1/environments/${environmentId}/failure-webhook/rotate-secret`;
          const answer = await world.call('elder api', path, { method: 'POST' });
          if (answer.status !== 201) throw new Error(`${answer.status} ${answer.text}`);
          webhook.oldSecret = webhook.secret;
          webhook.oldUntil = Date.now() + sendMs;
          webhook.secret = registerSecret(answer.json.failureWebhookSecret);
        },
        throughOutages,
      );
      webhook.uncertainUntil = attempts === 1 ? 0 : Date.now() + sendMs;
      world.counts['rotated secrets'] += 1;
    },
  };
}

/** Skips the pauses before messages are sent again. They would grow to hours. */
export async function hastenMessages(world: World): Promise<void> {
  await hastenRetries(world.admin, webhookQueue).catch(() => {});
}
