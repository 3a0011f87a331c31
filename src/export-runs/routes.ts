import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { PgBoss } from 'pg-boss';
import type { Database } from '../db/database.ts';
import { actorOf, environmentOf } from '../environments/auth/access.ts';
import { getConfig } from '../export-configs/list-configs.sql.ts';
import {
  configParams,
  mayDelete,
  mayRead,
  mayWrite,
  planProblems,
  tags,
} from '../export-configs/schemas.ts';
import { pageOf, pageQuery, readNewestFirst } from '../http/pagination.ts';
import { problemResponses, readProblems, writeProblems } from '../http/problem.ts';
import { date } from '../http/schemas.ts';
import { currentSpan } from '../observability/tracing.ts';
import { cancelRun, retryRun } from './control-repository.ts';
import { enqueueNextRun } from './enqueue-due.sql.ts';
import { enqueueRuns } from './enqueue-runs.sql.ts';
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
          'unfinished run, which the detail names, and with `not_found` if the snapshot does ' +
          'not exist.',
        tags,
        params: configParams,
        body: Type.Object(
          { snapshotDate: Type.Optional(date('Date of the snapshot. Default: the newest.')) },
          { title: 'RunInput', additionalProperties: false },
        ),
        'x-request-body': { required: false },
        response: { 202: runSchema, ...problemResponses(...planProblems, 'conflict') },
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
        return await readNewestFirst(
          request.query,
          (run: Run) => run,
          page => listRuns(db, environmentId, config.id, page),
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

    app.post('/environments/:environmentId/export-configs/:configId/runs/:runId/retry', {
      config: mayWrite,
      schema: {
        operationId: 'retryRun',
        summary: 'Attempt a run now',
        description:
          'A queued run that waits for its next attempt is attempted now, and has all attempts ' +
          'again. Fails with `conflict` if the run waits for something else, is running or has ' +
          'ended.',
        tags,
        params: configRunParams,
        response: { 202: runSchema, ...problemResponses(...planProblems, 'conflict') },
      },
      handler: async (request, reply) => {
        const { configId, runId } = request.params;
        const key = { environmentId: environmentOf(request).id, configId, runId };
        const origin = { requestId: request.id, ...currentSpan().traceContext };
        const run = await db
          .transaction()
          .execute(trx => retryRun(trx, jobs, actorOf(request), key, origin));
        return reply.code(202).send(run);
      },
    });

    app.post('/environments/:environmentId/export-configs/:configId/runs/:runId/cancel', {
      config: mayDelete,
      schema: {
        operationId: 'cancelRun',
        summary: 'Cancel a run',
        description:
          'The run ends as failed with `cancelled`. A worker aborts its upload within seconds, ' +
          'so nothing of the run stays in the bucket. Fails with `conflict` if the run has ' +
          'ended, and with `Retry-After` while it completes its file.',
        tags,
        params: configRunParams,
        response: {
          202: runSchema,
          ...problemResponses(...writeProblems, 'conflict'),
        },
      },
      handler: async (request, reply) => {
        const { configId, runId } = request.params;
        const environmentId = environmentOf(request).id;
        const run = await db.transaction().execute(async trx => {
          const key = { environmentId, configId, runId };
          const cancelled = await cancelRun(trx, actorOf(request), key, now());
          await enqueueNextRun(trx, jobs, { environmentId, id: configId }, now());
          return cancelled;
        });
        return reply.code(202).send(run);
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
