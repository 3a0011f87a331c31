import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { isIdPart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses, writeProblems } from '../http/problem.ts';
import { instant, literals, nullable } from '../http/schemas.ts';
import type { EventType } from '../webhooks/events.ts';
import { eventTypeSchema, webhookEventsSchema } from '../webhooks/schemas.ts';
import type { WebhookDependencies } from '../webhooks/try-webhook.ts';
import { maxUrlLength } from '../webhooks/webhook-url.ts';
import {
  findWebhookSettings,
  listWebhookSettings,
  type WebhookSettings,
} from '../webhooks/webhooks-repository.ts';
import { actorOf, callerOf, environmentOf } from './auth/access.ts';
import {
  deleteEnvironment,
  type Environment,
  environmentIdPattern,
  listEnvironments,
} from './environments-repository.ts';
import { readExternalId, readExternalIds } from './external-ids-repository.ts';
import { plans } from './plans.ts';
import { upsertEnvironment } from './upsert-environment.ts';

export const environmentParams = Type.Object({
  environmentId: Type.String({
    pattern: environmentIdPattern,
    description: 'The environment.',
    examples: ['acme'],
  }),
});

const name = Type.String({
  minLength: 1,
  maxLength: 200,
  pattern: '^[^\\u0000]*$',
  examples: ['Acme production'],
});

const planSchema = literals(plans, {
  title: 'Plan',
  description: 'Plan of the environment.',
  examples: ['enterprise'],
});

/** Members of the problem `plan_upgrade_required`. */
export const planProblemMembers = {
  currentPlan: { ...planSchema, description: '`plan_upgrade_required`' },
  requiredPlan: { ...planSchema, description: '`plan_upgrade_required`' },
};

const environmentProperties = {
  id: Type.String(),
  name: Type.String(),
  plan: planSchema,
  failureWebhook: nullable(
    Type.String({
      description:
        'URL that receives events of automatic exports. Only the operator sees it, because a URL ' +
        'may be a secret; other callers get null.',
    }),
  ),
  webhookEvents: Type.Unsafe<EventType[] | null>({
    type: ['array', 'null'],
    items: eventTypeSchema,
    description: 'Events that `failureWebhook` receives; null like `failureWebhook`.',
  }),
  externalId: Type.String({
    description:
      'Id that the trust policy of a role at AWS must demand as `sts:ExternalId`. It never changes.',
  }),
  createdAt: instant(),
  updatedAt: instant(),
};
const description = 'Data space of one customer.';
const environmentSchema = Type.Object(environmentProperties, { title: 'Environment', description });
const savedEnvironmentSchema = Type.Object(
  {
    ...environmentProperties,
    failureWebhookSecret: Type.Optional(
      Type.String({
        description:
          'Secret that signs messages, `whsec_…`. Present if the webhook is new or has another ' +
          'URL; it cannot be read again.',
      }),
    ),
  },
  { title: 'SavedEnvironment', description },
);

const tags = ['Environments'];

export function environmentRoutes(dependencies: WebhookDependencies): FastifyPluginCallbackTypebox {
  const { db } = dependencies;
  return (app, _options, done) => {
    app.put('/environments/:environmentId', {
      config: { access: 'operator' },
      schema: {
        operationId: 'putEnvironment',
        summary: 'Create or update an environment',
        description: 'The billing backend uses this to keep the name and the plan up to date.',
        tags,
        params: environmentParams,
        body: Type.Object(
          {
            name,
            plan: planSchema,
            failureWebhook: Type.Optional(
              nullable(
                Type.String({
                  maxLength: maxUrlLength,
                  description:
                    'An https URL. If absent, the webhook is unchanged. Null removes it with its secret.',
                  examples: ['https://hooks.example.com/warehouse-export'],
                }),
              ),
            ),
            webhookEvents: Type.Optional({
              ...webhookEventsSchema,
              description:
                'Events that the webhook receives. If absent, they are unchanged. A new webhook ' +
                'receives failures, recoveries and turn-offs.',
            }),
          },
          { title: 'EnvironmentInput', additionalProperties: false },
        ),
        response: {
          200: savedEnvironmentSchema,
          201: savedEnvironmentSchema,
          ...problemResponses(...writeProblems),
        },
      },
      handler: async (request, reply) => {
        const saved = await upsertEnvironment(dependencies, actorOf(request), {
          id: request.params.environmentId,
          ...request.body,
        });
        const secret =
          saved.webhookSecret === null ? {} : { failureWebhookSecret: saved.webhookSecret };
        const externalId = await readExternalId(db, saved.environment.id);
        return reply
          .code(saved.created ? 201 : 200)
          .send({ ...present(saved.environment, saved.webhook, externalId), ...secret });
      },
    });

    app.get('/environments', {
      config: { access: 'operator' },
      schema: {
        operationId: 'listEnvironments',
        summary: 'List environments',
        description: 'Ordered by id.',
        tags,
        querystring: pageQuery,
        response: {
          200: pageOf(environmentSchema, 'A page of environments.'),
          ...problemResponses('validation_failed', 'unauthenticated', 'insufficient_scope'),
        },
      },
      handler: async request => {
        const page = await readPage(
          request.query,
          { position: (environment: Environment) => [environment.id], parts: [isIdPart] },
          ({ after, limit }) => listEnvironments(db, { after: after?.[0] ?? null, limit }),
        );
        const ids = page.items.map(({ id }) => id);
        const webhooks = await listWebhookSettings(db, ids);
        const externalIds = await readExternalIds(db, ids);
        const presentItem = (item: Environment) =>
          present(item, webhooks.get(item.id) ?? null, externalIds.get(item.id) ?? '');
        return {
          ...page,
          items: page.items.map(presentItem),
        };
      },
    });

    app.get('/environments/:environmentId', {
      config: { access: { environment: 'member' } },
      schema: {
        operationId: 'getEnvironment',
        summary: 'Read an environment',
        description: 'Any token of the environment may read it.',
        tags,
        params: environmentParams,
        response: {
          200: environmentSchema,
          ...problemResponses('validation_failed', 'unauthenticated', 'not_found'),
        },
      },
      handler: async request => {
        const environment = environmentOf(request);
        const externalId = await readExternalId(db, environment.id);
        const isOperator = callerOf(request).kind === 'operator';
        const webhook = isOperator ? await findWebhookSettings(db, environment.id) : null;
        return present(environment, webhook, externalId);
      },
    });

    app.delete('/environments/:environmentId', {
      config: { access: { environment: 'operator' } },
      schema: {
        operationId: 'deleteEnvironment',
        summary: 'Delete an environment',
        description:
          'Deletes the environment with its snapshots, keys, export configs and runs. Answers ' +
          '`conflict` with `Retry-After` while one of its snapshots is being replaced.',
        tags,
        params: environmentParams,
        response: {
          204: Type.Null({ description: 'The environment is deleted.' }),
          ...problemResponses(...writeProblems, 'conflict'),
        },
      },
      handler: async (request, reply) => {
        await deleteEnvironment(db, actorOf(request), request.params.environmentId);
        return reply.code(204).send(null);
      },
    });

    done();
  };
}

/** Converts an environment and its webhook to the form of responses. */
function present(environment: Environment, webhook: WebhookSettings | null, externalId: string) {
  const { url = null, events = null } = webhook ?? {};
  const webhookEvents = events && [...events];
  return { ...environment, failureWebhook: url, webhookEvents, externalId };
}
