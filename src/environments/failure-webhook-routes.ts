import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { problemResponses } from '../http/problem.ts';
import { rotateWebhookSecret } from '../webhooks/failure-webhooks.ts';
import { tryFailureWebhook, type WebhookDependencies } from '../webhooks/try-webhook.ts';
import { actorOf, environmentOf } from './auth/access.ts';
import { environmentParams } from './routes.ts';

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

/** The webhook itself is set with the environment. */
export function failureWebhookRoutes(
  dependencies: WebhookDependencies,
): FastifyPluginCallbackTypebox {
  const { db, encryptionKeys } = dependencies;
  return (app, _options, done) => {
    app.post('/environments/:environmentId/failure-webhook/rotate-secret', {
      config: ofOperator,
      schema: {
        operationId: 'rotateFailureWebhookSecret',
        summary: 'Give the failure webhook a new secret',
        description:
          'The old one signs nothing any more. What a receiver refuses until it knows the new one is sent again for about a day.',
        tags,
        params: environmentParams,
        response: {
          201: Type.Object(
            { failureWebhookSecret: Type.String({ description: 'Shown this once: `whsec_…`.' }) },
            { description: 'The new secret.' },
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
        summary: 'Try the failure webhook',
        description:
          'Sends one signed message of the type `webhook.test`, once, and tells what came of it. Answers within 15 s.',
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
    delivered: Type.Boolean({ description: 'The receiver answered with 2xx.' }),
    status: Type.Unsafe<number | null>({
      type: ['integer', 'null'],
      description: 'What the receiver answered; null when it did not.',
    }),
    error: Type.Unsafe<{ code: string; message: string } | null>({
      anyOf: [
        Type.Object({
          code: Type.String({
            description:
              '`endpoint_not_allowed`, `endpoint_unreachable`, `timeout`, `tls_error`, `not_http`, `not_accepted`, `secret_unreadable` or `unknown`.',
            examples: ['not_accepted'],
          }),
          message: Type.String(),
        }),
        { type: 'null' },
      ],
    }),
  },
  { description: 'What came of it.' },
);
