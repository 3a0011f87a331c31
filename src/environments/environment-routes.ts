import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { Database } from '../db/database.ts';
import { actorOf, environmentOf } from '../http/access.ts';
import { isIdPart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses } from '../http/problem.ts';
import { instant, literals } from '../http/schemas.ts';
import {
  deleteEnvironment,
  type Environment,
  environmentIdPattern,
  listEnvironments,
  putEnvironment,
} from './environments.ts';
import { plans } from './plans.ts';

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

const environmentSchema = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    plan: literals(plans),
    createdAt: instant(),
    updatedAt: instant(),
  },
  { description: 'One customer’s data space.' },
);

const tags = ['Environments'];

export function environmentRoutes({ db }: { db: Database }): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    app.put('/environments/:environmentId', {
      config: { access: 'operator' },
      schema: {
        operationId: 'putEnvironment',
        summary: 'Create or update an environment',
        description: 'For the billing backend: it keeps the name and the plan up to date.',
        tags,
        params: environmentParams,
        body: Type.Object(
          { name, plan: literals(plans, { examples: ['enterprise'] }) },
          { additionalProperties: false },
        ),
        response: {
          200: environmentSchema,
          201: environmentSchema,
          ...problemResponses(
            'validation_failed',
            'unauthenticated',
            'insufficient_scope',
            'not_found',
            'payload_too_large',
            'unsupported_media_type',
          ),
        },
      },
      handler: async (request, reply) => {
        const { environment, created } = await putEnvironment(db, actorOf(request), {
          id: request.params.environmentId,
          ...request.body,
        });
        return reply.code(created ? 201 : 200).send(environment);
      },
    });

    app.get('/environments', {
      config: { access: 'operator' },
      schema: {
        operationId: 'listEnvironments',
        summary: 'List environments',
        description: 'In order of id.',
        tags,
        querystring: pageQuery,
        response: {
          200: pageOf(environmentSchema, 'A page of environments.'),
          ...problemResponses('validation_failed', 'unauthenticated', 'insufficient_scope'),
        },
      },
      handler: async request =>
        await readPage(
          request.query,
          { position: (environment: Environment) => [environment.id], parts: [isIdPart] },
          ({ after, limit }) => listEnvironments(db, { after: after?.[0] ?? null, limit }),
        ),
    });

    app.get('/environments/:environmentId', {
      config: { access: { environment: 'member' } },
      schema: {
        operationId: 'getEnvironment',
        summary: 'Read an environment',
        description: 'Any token of an environment may read its own.',
        tags,
        params: environmentParams,
        response: {
          200: environmentSchema,
          ...problemResponses('validation_failed', 'unauthenticated', 'not_found'),
        },
      },
      handler: request => environmentOf(request),
    });

    app.delete('/environments/:environmentId', {
      config: { access: { environment: 'operator' } },
      schema: {
        operationId: 'deleteEnvironment',
        summary: 'Delete an environment',
        description: 'Removes it and all that belongs to it: snapshots, keys, export configs and runs.',
        tags,
        params: environmentParams,
        response: {
          204: Type.Null({ description: 'It is gone.' }),
          ...problemResponses(
            'validation_failed',
            'unauthenticated',
            'insufficient_scope',
            'not_found',
            'payload_too_large',
            'unsupported_media_type',
          ),
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
