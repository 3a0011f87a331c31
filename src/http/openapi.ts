import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { TSchema } from '@fastify/type-provider-typebox';
import type { FastifyContextConfig, FastifyInstance } from 'fastify';
import packageJson from '../../package.json' with { type: 'json' };
import { jsonBodyLimitBytes } from './json-bodies.ts';
import { nameComponents } from './name-components.ts';
import { problemSchema } from './problem.ts';

declare module 'fastify' {
  interface FastifySchema {
    /** Members of the OpenAPI `requestBody` that Fastify cannot derive. */
    'x-request-body'?: Readonly<Record<string, unknown>>;
  }
}

interface DocumentOptions {
  /** Returns who may call a route, as sentences. */
  readonly describeCallers: (config: FastifyContextConfig) => string;
  readonly problemMembers: Readonly<Record<string, TSchema>>;
  /** The `webhooks` section. */
  readonly webhooks: Readonly<Record<string, object>>;
}

/**
 * Serves the OpenAPI document of the route schemas at `/openapi.yaml`, and a browsable view at
 * `/docs`.
 */
export async function registerOpenapi(
  app: FastifyInstance,
  { describeCallers, problemMembers, webhooks }: DocumentOptions,
): Promise<void> {
  app.addSchema(problemSchema(problemMembers));
  await app.register(swagger, {
    refResolver: {
      buildLocalReference: (json, _baseUri, _fragment, index) =>
        String(json['$id'] ?? `schema-${index}`),
    },
    transform: ({ schema, url, route }) => {
      const description = [schema?.description, describeCallers(route.config ?? {})];
      return { schema: { ...schema, description: description.filter(Boolean).join('\n\n') }, url };
    },
    transformObject: document =>
      'openapiObject' in document ? nameComponents(document.openapiObject) : {},
    openapi: {
      openapi: '3.1.0',
      webhooks: webhooks as never,
      info: {
        title: 'warehouse-export',
        version: packageJson.version,
        description: [
          'Exports company adoption data of a product-analytics tool. Customers download files, or ' +
            'receive them in their own S3-compatible bucket. All times are UTC. Errors are RFC 9457 problems.',
          `A JSON body may have at most ${jsonBodyLimitBytes} bytes. The requests of an API key or a ` +
            'user token per minute are limited, and so are requests without a valid token per ' +
            'address: `rate_limited`.',
          'A path answers methods that it does not have with 405 `method_not_allowed` and `Allow`, ' +
            'with and without a token. Other paths answer 404 `not_found`.',
        ].join('\n\n'),
        license: { name: 'MIT', identifier: 'MIT' },
      },
      servers: [{ url: '/', description: 'This service.' }],
      security: [{ bearer: [] }],
      tags: [
        { name: 'Environments', description: 'Data spaces of customers. For the operator.' },
        { name: 'API keys', description: 'Bearer tokens of one environment. For the operator.' },
        { name: 'Snapshots', description: 'Ingest of the state at the end of a UTC day.' },
        { name: 'Manual export', description: 'Downloads in four aggregations.' },
        {
          name: 'Automatic export',
          description: 'Daily or weekly files in a bucket of the customer.',
        },
        {
          name: 'Audit log',
          description: 'Changes and downloads with actor and time. For the operator.',
        },
        { name: 'Operation', description: 'Health and metrics.' },
      ],
      components: {
        securitySchemes: {
          bearer: {
            type: 'http',
            scheme: 'bearer',
            description:
              'The operator token, an API key `whx_<id>_<secret>`, or a user token. A user token is a JWT ' +
              'access token (RS256, ES256 or EdDSA) of the configured identity provider, with claims ' +
              'that name environments and scopes.',
          },
        },
      },
    },
  });

  await app.register(async scope => {
    scope.addHook('onRoute', route => {
      route.config = { ...route.config, access: 'public' };
      route.logLevel = 'warn';
    });
    await scope.register(swaggerUi, {
      routePrefix: '/docs',
      uiConfig: { displayOperationId: true },
    });
    scope.get('/openapi.yaml', { schema: { hide: true } }, async (_request, reply) =>
      reply.type('application/yaml; charset=utf-8').send(app.swagger({ yaml: true })),
    );
  });
}
