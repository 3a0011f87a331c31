import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyInstance } from 'fastify';
import { problemSchema } from './problem.ts';

/** The document that the route schemas make, at `/openapi.yaml`, and a browsable view of it at `/docs`. */
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
          'Lets customers of a product-analytics tool take their company adoption data out: as a CSV download, or as a CSV that arrives in their own S3-compatible bucket. All times are UTC. Errors are RFC 9457 problems.',
        license: { name: 'MIT', identifier: 'MIT' },
      },
      servers: [{ url: '/', description: 'This service.' }],
      security: [{ bearer: [] }],
      tags: [
        { name: 'Environments', description: 'Customers’ data spaces. For the operator.' },
        { name: 'API keys', description: 'Bearer tokens of one environment. For the operator.' },
        { name: 'Snapshots', description: 'Data in: the state at the end of a UTC day.' },
        { name: 'Manual export', description: 'Data out: CSV downloads in four aggregations.' },
        {
          name: 'Automatic export',
          description: 'Data out every day or week: a CSV in a bucket of the customer’s own.',
        },
        { name: 'Audit log', description: 'Who changed what, when. For the operator.' },
        { name: 'Operation', description: 'Health and metrics.' },
      ],
      components: {
        securitySchemes: {
          bearer: {
            type: 'http',
            scheme: 'bearer',
            description:
              'The operator token, an API key `whx_<id>_<secret>`, or, where the operator has named an identity provider, one of its JWT access tokens (RS256, ES256 or EdDSA) with claims that name environments and scopes.',
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
