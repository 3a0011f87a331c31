import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { problemResponses } from '../http/problem.ts';
import { AppError } from '../shared/errors.ts';

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
  { description: 'The process is alive, or can serve.' },
);
const tags = ['Operation'];

/** Registers liveness and readiness, for orchestrators and load balancers. */
export function healthRoutes(options: HealthOptions): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    app.get('/health/live', {
      config: { access: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'getLiveness',
        summary: 'Is the process alive?',
        description: 'Asks nothing of the database.',
        tags,
        security: [],
        response: { 200: ok },
      },
      handler: () => ({ status: 'ok' as const }),
    });

    app.get('/health/ready', {
      config: { access: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'getReadiness',
        summary: 'Can the process serve?',
        description:
          'Answers 503 while the database cannot be reached or lacks migrations, and from the moment ' +
          'the process shuts down.',
        tags,
        security: [],
        response: { 200: ok, ...problemResponses() },
      },
      handler: async () => {
        if (options.isStopping()) throw notReady('The process is shutting down.');
        const obstacle = await options.findDatabaseObstacle().catch((cause: unknown) => {
          throw notReady('The database cannot be reached.', cause);
        });
        if (obstacle !== null) throw notReady(obstacle);
        return { status: 'ok' as const };
      },
    });
    done();
  };
}

function notReady(detail: string, cause?: unknown): AppError {
  return new AppError('unavailable', detail, { cause, headers: { 'retry-after': '5' } });
}
