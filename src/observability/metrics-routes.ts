import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import fastifyPlugin from 'fastify-plugin';
import type { PrometheusMetrics } from './prometheus.ts';

/** Numbers for Prometheus, none of them about one customer. */
export function metricsRoutes({
  metrics,
}: {
  readonly metrics: PrometheusMetrics;
}): FastifyPluginCallbackTypebox {
  const plugin: FastifyPluginCallbackTypebox = (app, _options, done) => {
    app.addHook('onResponse', async (request, reply) => {
      const route = request.is404 ? 'none' : (request.routeOptions.url ?? 'none');
      metrics.requestEnded({
        method: request.method,
        route,
        status: reply.statusCode,
        seconds: reply.elapsedTime / 1000,
      });
    });

    app.get('/metrics', {
      config: { access: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'getMetrics',
        summary: 'Metrics for Prometheus',
        description:
          'Nothing in them is about one customer. Answers while the database is away, too: `whx_database_up` tells.',
        tags: ['Operation'],
        security: [],
        response: {
          200: {
            description: 'The text format.',
            content: { 'text/plain': { schema: Type.String() } },
          },
        },
      },
      handler: async (_request, reply) =>
        reply.type(metrics.contentType).send(await metrics.render()),
    });
    done();
  };
  // Its hook watches every route, not only its own.
  return fastifyPlugin(plugin);
}
