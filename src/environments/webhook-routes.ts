import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { problemResponses, writeProblems } from '../http/problem.ts';
import { documentedAs, literals } from '../http/schemas.ts';
import type { CheckPlaces } from '../shared/check-places.ts';
import { notFound } from '../shared/errors.ts';
import { defaultEventTypes } from '../webhooks/events.ts';
import { webhookEventsSchema } from '../webhooks/schemas.ts';
import { sendErrorCodes } from '../webhooks/send-webhook.ts';
import { tryWebhook, type WebhookDependencies } from '../webhooks/try-webhook.ts';
import { maxUrlLength } from '../webhooks/webhook-url.ts';
import { removeWebhook, rotateWebhookSecret, setWebhook } from '../webhooks/webhooks-repository.ts';
import { actorOf, environmentOf } from './auth/access.ts';
import { lockEnvironment } from './environments-repository.ts';
import { environmentParams } from './routes.ts';
import { readWebhookUrl } from './upsert-environment.ts';

const sendErrorCodeSchema = literals(sendErrorCodes, { title: 'WebhookErrorCode' });

const tags = ['Environments'];
const mayWrite = { access: { environment: 'exports:write' } } as const;
const problems = problemResponses(...writeProblems);

const secretSchema = Type.String({
  description: 'The secret that signs messages, `whsec_…`. It is shown only once.',
});

const webhookSchema = Type.Object(
  {
    url: Type.String({ description: 'URL in its normal form.' }),
    events: webhookEventsSchema,
    failureWebhookSecret: Type.Optional({
      ...secretSchema,
      description:
        'The secret that signs messages, `whsec_…`. Present if the webhook is new or has another ' +
        'URL; it cannot be read again.',
    }),
  },
  { title: 'FailureWebhook', description: 'Webhook of the environment.' },
);

/** Registers routes to set, remove and test the webhook, and to rotate its secret. */
export function webhookRoutes(
  dependencies: WebhookDependencies & { readonly checkPlaces: CheckPlaces },
): FastifyPluginCallbackTypebox {
  const { db, encryptionKeys, checkPlaces } = dependencies;
  return (app, _options, done) => {
    app.put('/environments/:environmentId/failure-webhook', {
      config: mayWrite,
      schema: {
        operationId: 'putFailureWebhook',
        summary: 'Set the webhook',
        description:
          'Replaces the webhook. Another URL gets another secret; the same URL keeps its secret.',
        tags,
        params: environmentParams,
        body: Type.Object(
          {
            url: Type.String({
              maxLength: maxUrlLength,
              description: 'An https URL.',
              examples: ['https://hooks.example.com/warehouse-export'],
            }),
            events: Type.Optional({
              ...webhookEventsSchema,
              description: 'Events that it receives. Default: all except `export.succeeded`.',
              default: [...defaultEventTypes],
            }),
          },
          { title: 'FailureWebhookInput', additionalProperties: false },
        ),
        response: { 200: webhookSchema, 201: webhookSchema, ...problems },
      },
      handler: async (request, reply) => {
        const { id } = environmentOf(request);
        const url = readWebhookUrl(dependencies, request.body.url, '/url');
        const events = request.body.events ?? defaultEventTypes;
        const { settings, created, secret } = await db.transaction().execute(async trx => {
          await lockEnvironment(trx, id);
          return await setWebhook(trx, actorOf(request), encryptionKeys, id, url, events);
        });
        return reply.code(created ? 201 : 200).send({
          ...settings,
          events: [...settings.events],
          ...(secret !== null && { failureWebhookSecret: secret }),
        });
      },
    });

    app.delete('/environments/:environmentId/failure-webhook', {
      config: mayWrite,
      schema: {
        operationId: 'deleteFailureWebhook',
        summary: 'Remove the webhook',
        description: 'Removes the webhook with its secret. Events that wait for it are dropped.',
        tags,
        params: environmentParams,
        response: { 204: Type.Null({ description: 'The webhook is removed.' }), ...problems },
      },
      handler: async (request, reply) => {
        const { id } = environmentOf(request);
        const removed = await db
          .transaction()
          .execute(trx => removeWebhook(trx, actorOf(request), id));
        if (!removed) throw notFound('webhook');
        return reply.code(204).send(null);
      },
    });

    app.post('/environments/:environmentId/failure-webhook/rotate-secret', {
      config: mayWrite,
      schema: {
        operationId: 'rotateFailureWebhookSecret',
        summary: 'Rotate the secret of the webhook',
        description:
          'The old secret is no longer used. Messages that the receiver refuses until it has the new ' +
          'secret are sent again for about a day.',
        tags,
        params: environmentParams,
        response: {
          201: Type.Object(
            {
              failureWebhookSecret: secretSchema,
            },
            { title: 'FailureWebhookSecret', description: 'The new secret.' },
          ),
          ...problems,
        },
      },
      handler: async (request, reply) => {
        const { id } = environmentOf(request);
        const secret = await rotateWebhookSecret(db, actorOf(request), encryptionKeys, id);
        return reply.code(201).send({ failureWebhookSecret: secret });
      },
    });

    app.post('/environments/:environmentId/failure-webhook/test', {
      config: mayWrite,
      schema: {
        operationId: 'testFailureWebhook',
        summary: 'Test the webhook',
        description:
          'Sends one signed message of the type `webhook.test` without retries and returns the ' +
          'result. Takes at most 15 s. At most two tests and bucket checks of an environment are in ' +
          'progress at once, others get `rate_limited`.',
        tags,
        params: environmentParams,
        response: { 200: sendResultSchema, ...problems },
      },
      handler: async request => {
        const { id } = environmentOf(request);
        const release = await checkPlaces.acquire(id);
        return await tryWebhook(dependencies, id).finally(release);
      },
    });

    done();
  };
}

const sendResultSchema = Type.Object(
  {
    delivered: Type.Boolean({ description: 'True if the receiver answered with 2xx.' }),
    status: Type.Unsafe<number | null>({
      type: ['integer', 'null'],
      description: 'HTTP status of the receiver; null if it did not answer.',
    }),
    error: Type.Unsafe<{ code: string; message: string } | null>({
      anyOf: [
        Type.Object(
          { code: documentedAs(Type.String(), sendErrorCodeSchema), message: Type.String() },
          { title: 'WebhookTestError' },
        ),
        { type: 'null' },
      ],
    }),
  },
  { title: 'WebhookTestResult', description: 'Result of the test.' },
);
