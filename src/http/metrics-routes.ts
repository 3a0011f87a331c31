import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import fastifyPlugin from 'fastify-plugin';
import type { PrometheusMetrics } from '../observability/prometheus.ts';
import { AppError } from '../shared/errors.ts';
import { cacheWithTtl } from '../shared/ttl-cache.ts';
import { problemResponses } from './problem.ts';

/** Scrapes within a second share one rendering, which takes 3 ms. */
const rendering = { ttlMs: 1_000, timeoutMs: 10_000 };

/** Registers `/metrics` and counts every request. No metric identifies a customer. */
export function metricsRoutes({
  metrics,
}: {
  readonly metrics: PrometheusMetrics;
}): FastifyPluginCallbackTypebox {
  const readText = cacheWithTtl(() => metrics.render(), rendering);
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
        summary: 'Read metrics for Prometheus',
        description:
          'No metric identifies a customer. The route also answers while the database cannot be ' +
          'reached: `whx_database_up` is then 0. Scrapes within a second get the same values.',
        tags: ['Operation'],
        security: [],
        response: {
          200: {
            description: 'Prometheus text format.',
            content: { 'text/plain': { schema: Type.String() } },
          },
          ...problemResponses('validation_failed'),
        },
      },
      handler: async (_request, reply) => {
        const text = await readText();
        if (text === null) throw new AppError('unavailable', 'The metrics cannot be read.');
        return reply.type(metrics.contentType).send(text);
      },
    });
    done();
  };
  // fastify-plugin lifts the encapsulation, so that the hook sees every route.
  return fastifyPlugin(plugin);
}
