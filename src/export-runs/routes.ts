import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { PgBoss } from 'pg-boss';
import type { Database } from '../db/database.ts';
import { actorOf, environmentOf } from '../environments/auth/access.ts';
import { getConfig } from '../export-configs/list-configs.ts';
import {
  bodyProblems,
  configParams,
  mayRead,
  mayWrite,
  readProblems,
  tags,
} from '../export-configs/schemas.ts';
import { isIdPart, isInstantPart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses } from '../http/problem.ts';
import { date } from '../http/schemas.ts';
import { currentSpan } from '../observability/tracing.ts';
import { enqueueRuns } from './enqueue-runs.ts';
import { getRun, insertManualRun, listRuns, type Run } from './repository.ts';
import { configRunParams, runParams, runSchema } from './schemas.ts';

interface RunRouteDependencies {
  readonly db: Database;
  readonly jobs: PgBoss;
  readonly now: () => Date;
}

export function runRoutes({ db, jobs, now }: RunRouteDependencies): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    app.post('/environments/:environmentId/export-configs/:configId/runs', {
      config: mayWrite,
      schema: {
        operationId: 'startRun',
        summary: 'Run an export now',
        description:
          'Also works while the config is turned off. Fails with `conflict` if the config has an ' +
          'unfinished run, and with `not_found` if the snapshot does not exist.',
        tags,
        params: configParams,
        body: Type.Object(
          { snapshotDate: Type.Optional(date('Date of the snapshot. Default: the newest.')) },
          { title: 'RunInput', additionalProperties: false },
        ),
        'x-request-body': { required: false },
        response: { 202: runSchema, ...problemResponses(...bodyProblems, 'conflict') },
      },
      preValidation: async request => {
        request.body ??= {};
      },
      handler: async (request, reply) => {
        const environmentId = environmentOf(request).id;
        const { config } = await getConfig(db, environmentId, request.params.configId);
        const snapshotDate = request.body.snapshotDate ?? null;
        const run = await db.transaction().execute(async trx => {
          const wanted = { environmentId, configId: config.id, snapshotDate, now: now() };
          const inserted = await insertManualRun(trx, actorOf(request), wanted);
          const origin = { requestId: request.id, ...currentSpan().traceContext };
          await enqueueRuns(trx, jobs, { environmentId, runId: inserted.id }, origin);
          return inserted;
        });
        return reply.code(202).send(run);
      },
    });

    app.get('/environments/:environmentId/export-configs/:configId/runs', {
      config: mayRead,
      schema: {
        operationId: 'listRuns',
        summary: 'List the runs of an export',
        description: 'Newest first.',
        tags,
        params: configParams,
        querystring: pageQuery,
        response: {
          200: pageOf(runSchema, 'A page of runs.'),
          ...problemResponses(...readProblems),
        },
      },
      handler: async request => {
        const environmentId = environmentOf(request).id;
        const { config } = await getConfig(db, environmentId, request.params.configId);
        return await readPage(
          request.query,
          {
            position: (run: Run) => [run.createdAt, run.id],
            parts: [isInstantPart, isIdPart],
          },
          ({ after, limit }) =>
            listRuns(db, environmentId, config.id, {
              before: after && { createdAt: new Date(after[0] ?? ''), id: after[1] ?? '' },
              limit,
            }),
        );
      },
    });

    app.get('/environments/:environmentId/export-configs/:configId/runs/:runId', {
      config: mayRead,
      schema: {
        operationId: 'getRunOfConfig',
        summary: 'Read a run of an export',
        tags,
        params: configRunParams,
        response: { 200: runSchema, ...problemResponses(...readProblems) },
      },
      handler: async request => {
        const { configId, runId } = request.params;
        return await getRun(db, environmentOf(request).id, configId, runId);
      },
    });

    app.get('/environments/:environmentId/runs/:runId', {
      config: mayRead,
      schema: {
        operationId: 'getRun',
        summary: 'Read a run',
        description: 'Returns a run without its config id in the path.',
        tags,
        params: runParams,
        response: { 200: runSchema, ...problemResponses(...readProblems) },
      },
      handler: async request =>
        await getRun(db, environmentOf(request).id, null, request.params.runId),
    });

    done();
  };
}
