import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { Database } from '../../db/database.ts';
import { pageOf, pageQuery, readNewestFirst } from '../../http/pagination.ts';
import { problemResponses, readProblems, writeProblems } from '../../http/problem.ts';
import { instant, literals, nullable } from '../../http/schemas.ts';
import { validationFailed } from '../../shared/errors.ts';
import { environmentParams } from '../routes.ts';
import { actorOf, environmentOf } from './access.ts';
import {
  type ApiKey,
  createApiKey,
  listApiKeys,
  maxApiKeys,
  revokeApiKey,
} from './api-keys-repository.ts';
import { scopes } from './scopes.ts';

const scopeSchema = literals(scopes, {
  title: 'Scope',
  description: '`exports:write` implies `exports:read`.',
});

const apiKeyProperties = {
  id: Type.String({ examples: ['4f9a1c0be2d37a58'] }),
  name: Type.String(),
  scopes: Type.Array(scopeSchema),
  expiresAt: nullable(instant('ISO 8601, UTC; null if the key never expires.')),
  createdAt: instant(),
};
const apiKeySchema = Type.Object(apiKeyProperties, {
  title: 'ApiKey',
  description: 'An API key without its secret.',
});

const tags = ['API keys'];

export function apiKeyRoutes({
  db,
  now,
}: {
  db: Database;
  now: () => Date;
}): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    app.post('/environments/:environmentId/api-keys', {
      config: { access: { environment: 'operator' } },
      schema: {
        operationId: 'createApiKey',
        summary: 'Create an API key',
        description:
          'The response holds the key, which is stored only as a hash and cannot be read again. ' +
          `Fails with \`conflict\` if the environment has ${maxApiKeys} keys, expired ones included.`,
        tags,
        params: environmentParams,
        body: Type.Object(
          {
            name: Type.String({
              minLength: 1,
              maxLength: 200,
              pattern: '^[^\\u0000]*$',
              examples: ['warehouse loader'],
            }),
            scopes: Type.Array(scopeSchema, {
              minItems: 1,
              uniqueItems: true,
              maxItems: scopes.length,
              examples: [['exports:read']],
            }),
            expiresAt: Type.Optional(
              nullable(instant('Must be in the future. If absent or null, the key never expires.')),
            ),
          },
          { title: 'ApiKeyInput', additionalProperties: false },
        ),
        response: {
          201: Type.Object(
            {
              ...apiKeyProperties,
              key: Type.String({
                description: 'The key, `whx_<id>_<secret>`. It is shown only once.',
              }),
            },
            { title: 'CreatedApiKey', description: 'The new key.' },
          ),
          ...problemResponses(...writeProblems, 'conflict'),
        },
      },
      handler: async (request, reply) => {
        const { name, scopes } = request.body;
        const expiresAt = parseExpiry(request.body.expiresAt ?? null, now());
        const { apiKey, token } = await createApiKey(db, actorOf(request), {
          environmentId: environmentOf(request).id,
          name,
          scopes,
          expiresAt,
        });
        return reply.code(201).send({ ...apiKey, scopes: [...apiKey.scopes], key: token });
      },
    });

    app.get('/environments/:environmentId/api-keys', {
      config: { access: { environment: 'operator' } },
      schema: {
        operationId: 'listApiKeys',
        summary: 'List API keys',
        description: 'Newest first, without secrets.',
        tags,
        params: environmentParams,
        querystring: pageQuery,
        response: {
          200: pageOf(apiKeySchema, 'A page of API keys.'),
          ...problemResponses(...readProblems),
        },
      },
      handler: async request => {
        const page = await readNewestFirst(
          request.query,
          (apiKey: ApiKey) => apiKey,
          wanted => listApiKeys(db, environmentOf(request).id, wanted),
        );
        return {
          ...page,
          items: page.items.map(apiKey => ({ ...apiKey, scopes: [...apiKey.scopes] })),
        };
      },
    });

    app.delete('/environments/:environmentId/api-keys/:keyId', {
      config: { access: { environment: 'operator' } },
      schema: {
        operationId: 'revokeApiKey',
        summary: 'Revoke an API key',
        description:
          'Takes effect at once in every process. Download links that the key created become invalid.',
        tags,
        params: Type.Object({
          ...environmentParams.properties,
          keyId: Type.String({
            pattern: '^[A-Za-z0-9]{1,64}$',
            description: 'The `id` of the key.',
          }),
        }),
        response: {
          204: Type.Null({ description: 'The key is revoked.' }),
          ...problemResponses(...writeProblems),
        },
      },
      handler: async (request, reply) => {
        await revokeApiKey(db, actorOf(request), environmentOf(request).id, request.params.keyId);
        return reply.code(204).send(null);
      },
    });

    done();
  };
}

function parseExpiry(text: string | null, now: Date): Date | null {
  if (text === null) return null;
  const expiresAt = new Date(text);
  if (Number.isNaN(expiresAt.getTime())) {
    throw validationFailed([
      { path: '/expiresAt', message: 'is not an instant such as 2026-03-02T00:00:00Z' },
    ]);
  }
  // With an offset, an instant late in 9999 can fall into year 10000, which ISO 8601 cannot write.
  if (expiresAt.getUTCFullYear() > 9999) {
    throw validationFailed([{ path: '/expiresAt', message: 'must be before the year 10000' }]);
  }
  if (expiresAt <= now)
    throw validationFailed([{ path: '/expiresAt', message: 'must be in the future' }]);
  return expiresAt;
}
