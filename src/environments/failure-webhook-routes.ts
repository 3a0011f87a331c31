import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { problemResponses } from '../http/problem.ts';
import { documentedAs, literals } from '../http/schemas.ts';
import { rotateWebhookSecret } from '../webhooks/failure-webhooks.ts';
import { sendErrorCodes } from '../webhooks/send-webhook.ts';
import { tryFailureWebhook, type WebhookDependencies } from '../webhooks/try-webhook.ts';
import { actorOf, environmentOf } from './auth/access.ts';
import { environmentParams } from './routes.ts';

const sendErrorCodeSchema = literals(sendErrorCodes, { title: 'WebhookErrorCode' });

const tags = ['Environments'];
const ofOperator = { access: { environment: 'operator' } } as const;
const problems = problemResponses(
  'validation_failed',
  'unauthenticated',
  'insufficient_scope',
  'not_found',
  'payload_too_large',
  'unsupported_media_type',
);

/**
 * Registers routes to rotate the secret and to test the webhook. `PUT /environments` sets its URL.
 */
export function failureWebhookRoutes(
  dependencies: WebhookDependencies,
): FastifyPluginCallbackTypebox {
  const { db, encryptionKeys } = dependencies;
  return (app, _options, done) => {
    app.post('/environments/:environmentId/failure-webhook/rotate-secret', {
      config: ofOperator,
      schema: {
        operationId: 'rotateFailureWebhookSecret',
        summary: 'Rotate the secret of the failure webhook',
        description:
          'The old secret is no longer used. Messages that the receiver refuses until it has the new ' +
          'secret are sent again for about a day.',
        tags,
        params: environmentParams,
        response: {
          201: Type.Object(
            {
              failureWebhookSecret: Type.String({
                description: 'The secret, `whsec_…`. It is shown only once.',
              }),
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
      config: ofOperator,
      schema: {
        operationId: 'testFailureWebhook',
        summary: 'Test the failure webhook',
        description:
          'Sends one signed message of the type `webhook.test` without retries and returns the ' +
          'result. Takes at most 15 s.',
        tags,
        params: environmentParams,
        response: { 200: sendResultSchema, ...problems },
      },
      handler: async request => await tryFailureWebhook(dependencies, environmentOf(request).id),
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
