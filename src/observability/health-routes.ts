import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { Database } from '../db/database.ts';
import { problemResponses } from '../http/problem.ts';
import { AppError } from '../shared/errors.ts';

interface HealthDependencies {
  readonly db: Database;
  readonly isStopping: boolean;
}

const ok = Type.Object({ status: Type.Literal('ok') }, { description: 'All is well.' });
const tags = ['Operation'];

/** For whoever starts, stops and balances the processes. */
export function healthRoutes(dependencies: HealthDependencies): FastifyPluginCallbackTypebox {
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
          'Not before the database can be reached and its tables are there, and not once it is stopping.',
        tags,
        security: [],
        response: { 200: ok, ...problemResponses() },
      },
      handler: async () => {
        if (dependencies.isStopping) throw notReady('The process is stopping.');
        const ask = dependencies.db.selectFrom('snapshots').select('version').limit(0);
        await ask.execute().catch((cause: unknown) => {
          throw notReady('The database cannot be reached or has no tables.', cause);
        });
        return { status: 'ok' as const };
      },
    });
    done();
  };
}

function notReady(detail: string, cause?: unknown): AppError {
  return new AppError('unavailable', detail, { cause, headers: { 'retry-after': '5' } });
}
