import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { DateTime } from 'luxon';
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
import { validationFailed } from '../shared/errors.ts';
import {
  type Backfill,
  cancelBackfill,
  getBackfill,
  insertBackfill,
  listBackfills,
} from './backfills-repository.ts';
import { cancelRunOfBackfill } from './control-repository.ts';
import { enqueueNextRun } from './enqueue-due.sql.ts';
import { lockConfig } from './run-effects.sql.ts';
import { backfillInput, backfillParams, backfillSchema, maxBackfillDays } from './schemas.ts';

interface BackfillRouteDependencies {
  readonly db: Database;
  readonly jobs: PgBoss;
  readonly now: () => Date;
}

export function backfillRoutes({
  db,
  jobs,
  now,
}: BackfillRouteDependencies): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    const path = '/environments/:environmentId/export-configs/:configId/backfills';

    app.post(path, {
      config: mayWrite,
      schema: {
        operationId: 'startBackfill',
        summary: 'Export the snapshots of past dates',
        description:
          'Starts a run for each date in the range that has a snapshot, oldest first and one at ' +
          'a time. Due slots and redeliveries of the config go first. Also works while the ' +
          'config is turned off. Fails with `conflict` if the config has a running backfill. ' +
          'Turning the config off, deleting it or lowering the plan cancels the backfill.',
        tags,
        params: configParams,
        body: backfillInput,
        response: { 202: backfillSchema, ...problemResponses(...planProblems, 'conflict') },
      },
      handler: async (request, reply) => {
        const environmentId = environmentOf(request).id;
        const { configId } = request.params;
        const { from, to } = request.body;
        validateRange(from, to);
        const started = await db.transaction().execute(async trx => {
          await lockConfig(trx, { environmentId, configId });
          const wanted = { environmentId, configId, from, to, now: now() };
          const backfillId = await insertBackfill(trx, actorOf(request), wanted);
          await enqueueNextRun(trx, jobs, { environmentId, id: configId }, now());
          return await getBackfill(trx, { environmentId, configId, backfillId });
        });
        return reply.code(202).send(started);
      },
    });

    app.get(path, {
      config: mayRead,
      schema: {
        operationId: 'listBackfills',
        summary: 'List the backfills of an export',
        description: 'Newest first.',
        tags,
        params: configParams,
        querystring: pageQuery,
        response: {
          200: pageOf(backfillSchema, 'A page of backfills.'),
          ...problemResponses(...readProblems),
        },
      },
      handler: async request => {
        const environmentId = environmentOf(request).id;
        const { config } = await getConfig(db, environmentId, request.params.configId);
        return await readNewestFirst(
          request.query,
          (backfill: Backfill) => backfill,
          page => listBackfills(db, environmentId, config.id, page),
        );
      },
    });

    app.get(`${path}/:backfillId`, {
      config: mayRead,
      schema: {
        operationId: 'getBackfill',
        summary: 'Read a backfill of an export',
        tags,
        params: backfillParams,
        response: { 200: backfillSchema, ...problemResponses(...readProblems) },
      },
      handler: async request => {
        const { configId, backfillId } = request.params;
        return await getBackfill(db, {
          environmentId: environmentOf(request).id,
          configId,
          backfillId,
        });
      },
    });

    app.post(`${path}/:backfillId/cancel`, {
      config: mayDelete,
      schema: {
        operationId: 'cancelBackfill',
        summary: 'Cancel a backfill',
        description:
          'No further date is exported, and the unfinished run of the backfill is cancelled. ' +
          'Files of finished runs stay. Fails with `conflict` if the backfill has ended.',
        tags,
        params: backfillParams,
        response: {
          202: backfillSchema,
          ...problemResponses(...writeProblems, 'conflict'),
        },
      },
      handler: async (request, reply) => {
        const environmentId = environmentOf(request).id;
        const { configId, backfillId } = request.params;
        const key = { environmentId, configId, backfillId };
        const cancelled = await db.transaction().execute(async trx => {
          await lockConfig(trx, key);
          await cancelBackfill(trx, actorOf(request), key, now());
          await cancelRunOfBackfill(trx, key, now());
          await enqueueNextRun(trx, jobs, { environmentId, id: configId }, now());
          return await getBackfill(trx, key);
        });
        return reply.code(202).send(cancelled);
      },
    });

    done();
  };
}

/** @throws AppError `validation_failed` */
function validateRange(from: string, to: string): void {
  const { days } = DateTime.fromISO(to, { zone: 'utc' }).diff(
    DateTime.fromISO(from, { zone: 'utc' }),
    'days',
  );
  if (days < 0) throw validationFailed([{ path: '/to', message: 'must not be before `from`' }]);
  if (days >= maxBackfillDays) {
    const message = `must be at most ${maxBackfillDays - 1} days after \`from\``;
    throw validationFailed([{ path: '/to', message }]);
  }
}
