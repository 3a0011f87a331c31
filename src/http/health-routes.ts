import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { AppError } from '../shared/errors.ts';
import { cacheWithTtl } from '../shared/ttl-cache.ts';
import { problemResponses } from './problem.ts';

interface HealthOptions {
  /** Returns true from the first signal to shut down. */
  readonly isStopping: () => boolean;
  /**
   * Returns why the database cannot be used, as a sentence for the operator; null if it can.
   * Rejects while the database cannot be reached.
   */
  readonly findDatabaseObstacle: () => Promise<string | null>;
}

const ok = Type.Object(
  { status: Type.Literal('ok') },
  {
    title: 'Health',
    description: 'The process is alive (live), or it can serve requests (ready).',
  },
);
const tags = ['Operation'];

/**
 * All probes share one look-up for a second. Otherwise, 10,000 pipelined probes on one connection
 * delayed other requests by 2.5 s.
 */
const lookUp = { ttlMs: 1_000, timeoutMs: 5_000 };

/** Registers liveness and readiness, for orchestrators and load balancers. */
export function healthRoutes(options: HealthOptions): FastifyPluginCallbackTypebox {
  const readObstacle = cacheWithTtl<{ obstacle: string | null; cause?: unknown }>(
    () =>
      options.findDatabaseObstacle().then(
        obstacle => ({ obstacle }),
        (cause: unknown) => ({ obstacle: 'The database cannot be reached.', cause }),
      ),
    lookUp,
  );

  return (app, _options, done) => {
    app.get('/health/live', {
      config: { access: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'getLiveness',
        summary: 'Check liveness',
        description: 'Does not use the database.',
        tags,
        security: [],
        response: { 200: ok, ...problemResponses('validation_failed') },
      },
      handler: () => ({ status: 'ok' as const }),
    });

    app.get('/health/ready', {
      config: { access: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'getReadiness',
        summary: 'Check readiness',
        description:
          'Returns 503 while the database cannot be reached or lacks migrations, and once the process ' +
          'has begun to shut down. Probes share one database look-up for a second.',
        tags,
        security: [],
        response: { 200: ok, ...problemResponses('validation_failed') },
      },
      handler: async () => {
        if (options.isStopping()) throw notReady('The process is shutting down.');
        const found = await readObstacle();
        if (found === null) throw notReady('The database does not answer in time.');
        if (found.obstacle !== null) throw notReady(found.obstacle, found.cause);
        return { status: 'ok' as const };
      },
    });
    done();
  };
}

function notReady(detail: string, cause?: unknown): AppError {
  return new AppError('unavailable', detail, { cause, headers: { 'retry-after': '5' } });
}
