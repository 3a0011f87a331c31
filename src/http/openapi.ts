import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyInstance } from 'fastify';
import { problemSchema } from './problem.ts';

/**
 * Serves the OpenAPI document of the route schemas at `/openapi.yaml`, and a browsable view at
 * `/docs`.
 */
export async function registerOpenapi(app: FastifyInstance): Promise<void> {
  app.addSchema(problemSchema);
  await app.register(swagger, {
    refResolver: {
      buildLocalReference: (json, _baseUri, _fragment, index) =>
        String(json['$id'] ?? `schema-${index}`),
    },
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'warehouse-export',
        version: '1.0.0',
        description:
          'Exports company adoption data of a product-analytics tool. Customers download files, or ' +
          'receive them in their own S3-compatible bucket. All times are UTC. Errors are RFC 9457 problems.',
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
    await scope.register(swaggerUi, { routePrefix: '/docs' });
    scope.get('/openapi.yaml', { schema: { hide: true } }, async (_request, reply) =>
      reply.type('application/yaml; charset=utf-8').send(app.swagger({ yaml: true })),
    );
  });
}
