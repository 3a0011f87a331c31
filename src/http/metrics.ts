import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import fastifyPlugin from 'fastify-plugin';
import type { Pool } from 'pg';
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Slots } from './slots.ts';

interface MetricsDependencies {
  readonly pools: Readonly<Record<string, Pool>>;
  readonly downloadSlots: Slots;
  readonly loadSlots: Slots;
}

/** Numbers for Prometheus, none of them about one customer. A registry of its own for every app. */
export function metricsRoutes(dependencies: MetricsDependencies): FastifyPluginCallbackTypebox {
  const plugin: FastifyPluginCallbackTypebox = (app, _options, done) => {
    const registers = [new Registry()];
    const [registry] = registers as [Registry];
    collectDefaultMetrics({ register: registry });

    const duration = new Histogram({
      name: 'whx_http_request_duration_seconds',
      help: 'From the first byte of a request to the last of its answer.',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
      registers,
    });
    app.addHook('onResponse', async (request, reply) => {
      const route = request.is404 ? 'none' : (request.routeOptions.url ?? 'none');
      duration.observe({ method: request.method, route, status: reply.statusCode }, reply.elapsedTime / 1000);
    });

    new Gauge({
      name: 'whx_database_connections',
      help: 'Connections of each pool by what they do, and callers that wait for one.',
      labelNames: ['pool', 'state'],
      registers,
      collect() {
        for (const [name, pool] of Object.entries(dependencies.pools)) {
          this.set({ pool: name, state: 'busy' }, pool.totalCount - pool.idleCount);
          this.set({ pool: name, state: 'idle' }, pool.idleCount);
          this.set({ pool: name, state: 'waiting' }, pool.waitingCount);
        }
      },
    });
    new Gauge({
      name: 'whx_downloads_in_progress',
      help: 'Downloads that hold a connection now.',
      registers,
      collect() {
        this.set(dependencies.downloadSlots.taken);
      },
    });
    new Gauge({
      name: 'whx_loads_in_progress',
      help: 'Snapshot loads under way now.',
      registers,
      collect() {
        this.set(dependencies.loadSlots.taken);
      },
    });

    app.get('/metrics', {
      config: { access: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'getMetrics',
        summary: 'Metrics for Prometheus',
        description: 'Nothing in them is about one customer.',
        tags: ['Operation'],
        security: [],
        response: {
          200: { description: 'The text format.', content: { 'text/plain': { schema: Type.String() } } },
        },
      },
      handler: async (_request, reply) => reply.type(registry.contentType).send(await registry.metrics()),
    });
    done();
  };
  // Its hook watches every route, not only its own.
  return fastifyPlugin(plugin);
}
