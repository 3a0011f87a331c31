import { Type } from '@fastify/type-provider-typebox';
import { date, instant, nullable } from '../http/schemas.ts';
import type { EventType } from './insert-events.ts';

/** The `webhooks` section of `openapi.yaml`. */

const headers = [
  ['webhook-id', 'The same on every attempt. Ignore an id that was received before.'],
  ['webhook-timestamp', 'Seconds since 1970 of this attempt. Refuse old ones.'],
  [
    'webhook-signature',
    '`v1,` and the base64 HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>` under the secret.',
  ],
].map(([name, description]) => ({
  in: 'header',
  name,
  required: true,
  description,
  schema: { type: 'string' },
}));

const responses = {
  '2XX': { description: 'The message was received. It is not sent again.' },
  default: {
    description:
      'The message is sent again for about a day. Redirects are not followed. 410 ends the attempts.',
  },
};

function webhook(type: string, operationId: string, summary: string, data: object, name: string) {
  const message = {
    title: name,
    type: 'object',
    required: ['type', 'timestamp', 'data'],
    properties: {
      type: { type: 'string', const: type },
      timestamp: instant('When it happened.'),
      data,
    },
  };
  return {
    post: {
      operationId,
      summary,
      description: 'Signed as Standard Webhooks, version 1.',
      tags: ['Environments'],
      security: [],
      parameters: headers,
      requestBody: { required: true, content: { 'application/json': { schema: message } } },
      responses,
    },
  };
}

/**
 * @param runError schema of the error of a run
 */
export function documentWebhooks(runError: object): Record<string, object> {
  const data = Type.Object(
    {
      environmentId: Type.String(),
      configId: Type.String(),
      configName: Type.String(),
      runId: Type.String(),
      slot: nullable(instant('The scheduled instant; null for a manual run.')),
      snapshotDate: date(),
      error: Type.Unsafe({
        anyOf: [runError, { type: 'null' }],
        description: 'Why the run failed; null after a success.',
      }),
      consecutiveFailures: Type.Integer({
        description: 'Failed runs since the last successful one, this one included.',
      }),
    },
    { title: 'ExportEventData' },
  );
  const events: Readonly<Record<EventType, readonly [id: string, summary: string]>> = {
    'export.failed': ['exportFailed', 'An export failed for the first time on a UTC day'],
    'export.recovered': ['exportRecovered', 'An export succeeded after failures'],
    'export.turned_off': ['exportTurnedOff', 'An export was turned off after repeated failures'],
  };
  const described = Object.entries(events).map(([type, [id, summary]]) => [
    type,
    webhook(type, id, summary, data, `${id.charAt(0).toUpperCase()}${id.slice(1)}Event`),
  ]);
  const test = Type.Object({ environmentId: Type.String() }, { title: 'WebhookTestData' });
  return {
    ...Object.fromEntries(described),
    'webhook.test': webhook(
      'webhook.test',
      'webhookTest',
      'A test that was asked for',
      test,
      'WebhookTestEvent',
    ),
  };
}
