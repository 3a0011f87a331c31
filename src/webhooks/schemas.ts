import { Type } from '@fastify/type-provider-typebox';
import { date, instant, literals, nullable } from '../http/schemas.ts';
import { type EventType, eventTypes } from './events.ts';

/** Defines the selection of events and the `webhooks` section of `openapi.yaml`. */

export const eventTypeSchema = literals(eventTypes, { title: 'WebhookEventType' });
export const webhookEventsSchema = Type.Array(eventTypeSchema, { minItems: 1, uniqueItems: true });

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

function webhook(
  type: string,
  operationId: string,
  summary: string,
  data: object,
  name: string,
  note = '',
) {
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
      description: `${note} Signed as Standard Webhooks, version 1.`.trim(),
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
  const run = {
    environmentId: Type.String(),
    configId: Type.String(),
    configName: Type.String(),
    runId: Type.String(),
    slot: nullable(instant('The scheduled instant; null for other runs.')),
    snapshotDate: date(),
  };
  const data = Type.Object(
    {
      ...run,
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
  const successData = Type.Object(
    {
      ...run,
      objectKey: Type.String({ description: 'Key of the object in the bucket.' }),
      manifestKey: nullable(
        Type.String({ description: 'Key of the manifest; null if the config has none.' }),
      ),
      bytes: Type.Integer({ description: 'Size of the object as stored.' }),
      rowCount: Type.Integer({ description: 'Rows in the file.' }),
      sha256: Type.String({ description: 'SHA-256 of the object, hexadecimal.' }),
    },
    { title: 'ExportSucceededEventData' },
  );
  const events: Readonly<
    Record<EventType, readonly [id: string, summary: string, data: object, note?: string]>
  > = {
    'export.succeeded': [
      'exportSucceeded',
      'A file is complete in the bucket',
      successData,
      'Only for webhooks that select it. One for each successful run.',
    ],
    'export.failed': ['exportFailed', 'An export failed for the first time on a UTC day', data],
    'export.recovered': ['exportRecovered', 'An export succeeded after failures', data],
    'export.turned_off': [
      'exportTurnedOff',
      'An export was turned off after repeated failures',
      data,
    ],
  };
  const described = Object.entries(events).map(([type, [id, summary, data, note]]) => [
    type,
    webhook(type, id, summary, data, `${id.charAt(0).toUpperCase()}${id.slice(1)}Event`, note),
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
