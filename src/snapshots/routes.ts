import type { Readable } from 'node:stream';
import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { Pool, PoolClient } from 'pg';
import type { Database } from '../db/database.ts';
import { actorOf, environmentOf } from '../environments/auth/access.ts';
import { environmentParams } from '../environments/routes.ts';
import { isDatePart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses } from '../http/problem.ts';
import { date, instant } from '../http/schemas.ts';
import { limitSourceStall, stallTimeoutMs } from '../http/stalls.ts';
import type { LoadOutcome, Metrics } from '../observability/metrics.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { AppError, validationFailed } from '../shared/errors.ts';
import { loadSnapshot, type RegisteredSnapshot } from './ingest/ingest-snapshot.ts';
import { abortWhenCutOff, countBytes, joinSmall, readCsvBody } from './ingest/read-body.ts';
import { deleteSnapshot, listSnapshots, type Snapshot } from './registry-repository.ts';

const snapshotSchema = Type.Object(
  {
    date: date('The UTC day at whose end this was the state.'),
    rowCount: Type.Integer(),
    completedAt: instant(),
  },
  { description: 'A complete snapshot.' },
);

const snapshotParams = Type.Object({
  ...environmentParams.properties,
  date: Type.String({
    format: 'date',
    description: 'The snapshot’s UTC date, not in the future.',
    examples: ['2026-03-01'],
  }),
});

/** Every date makes a partition; the product has no data from before. */
const earliestDate = '2000-01-01';

const tags = ['Snapshots'];

interface SnapshotRouteDependencies {
  readonly db: Database;
  readonly loadPool: Pool;
  readonly ingestLimit: ConcurrencyLimit;
  readonly metrics: Metrics;
  readonly now: () => Date;
  /** Hears of every snapshot that was loaded, before the caller does. May not reject. */
  readonly onLoaded: (environmentId: string, date: string) => Promise<void>;
  /** Work in the transaction of an ingest, right before its commit. */
  readonly beforeCommit: (client: PoolClient, snapshot: RegisteredSnapshot) => Promise<void>;
}

export function snapshotRoutes(
  dependencies: SnapshotRouteDependencies,
): FastifyPluginCallbackTypebox {
  const { db, loadPool, ingestLimit, metrics, now, onLoaded, beforeCommit } = dependencies;
  return (app, _options, done) => {
    app.register((uploads: typeof app, _uploadOptions, uploadsDone) => {
      uploads.removeAllContentTypeParsers();
      // The body stays a stream: the handler decides how fast it comes.
      uploads.addContentTypeParser('text/csv', (_request, payload, parsed) =>
        parsed(null, payload),
      );

      uploads.put('/environments/:environmentId/snapshots/:date', {
        config: { access: { environment: 'snapshots:write' } },
        schema: {
          operationId: 'putSnapshot',
          summary: 'Load a snapshot',
          description:
            'Replaces the snapshot of that date atomically: readers see the old one or the new one whole, and a body that breaks off or has a row at fault changes nothing. The header names the columns in any order. An empty field without quotes is null, `""` is an empty string. `Content-Encoding: gzip` is understood.',
          tags,
          consumes: ['text/csv'],
          params: snapshotParams,
          response: {
            200: { ...snapshotSchema, description: 'It replaced one.' },
            201: { ...snapshotSchema, description: 'It is new.' },
            ...problemResponses(
              'validation_failed',
              'unauthenticated',
              'insufficient_scope',
              'not_found',
              'conflict',
              'payload_too_large',
              'unsupported_media_type',
              'snapshot_invalid',
              'rate_limited',
            ),
          },
        },
        handler: async (request, reply) => {
          const today = now().toISOString().slice(0, 10);
          requireLoadableDate(request.params.date, today);
          const environmentId = environmentOf(request).id;
          const release = ingestLimit.acquire(environmentId);
          const controller = new AbortController();
          abortWhenCutOff(request.raw, controller);
          const startedAt = performance.now();
          let bytes = 0;
          let rows = 0;
          let outcome: LoadOutcome = 'failed';
          try {
            const stream = (request.body ?? request.raw) as Readable;
            const body = countBytes(
              readCsvBody(stream, request.headers['content-encoding']),
              length => {
                bytes += length;
              },
            );
            const onStall = () => {
              outcome = 'stalled';
              request.raw.destroy();
            };
            const loaded = await loadSnapshot(loadPool, {
              environmentId,
              date: request.params.date,
              body: joinSmall(limitSourceStall(body, stallTimeoutMs, onStall)),
              signal: controller.signal,
              now,
              beforeCommit,
            });
            outcome = 'complete';
            rows = loaded.rowCount;
            await onLoaded(environmentId, loaded.date);
            return reply.code(loaded.created ? 201 : 200).send({
              date: loaded.date,
              rowCount: loaded.rowCount,
              completedAt: loaded.completedAt.toISOString(),
            });
          } catch (error) {
            if (outcome === 'failed' && controller.signal.aborted) outcome = 'sender_gone';
            else if (error instanceof AppError && error.status < 500) outcome = 'refused';
            throw error;
          } finally {
            release();
            metrics.loadEnded({
              outcome,
              bytes,
              rows,
              seconds: (performance.now() - startedAt) / 1000,
            });
          }
        },
      });
      uploadsDone();
    });

    app.get('/environments/:environmentId/snapshots', {
      config: { access: { environment: 'snapshots:write' } },
      schema: {
        operationId: 'listSnapshots',
        summary: 'List snapshots',
        description: 'Newest first.',
        tags,
        params: environmentParams,
        querystring: pageQuery,
        response: {
          200: pageOf(snapshotSchema, 'A page of snapshots.'),
          ...problemResponses(
            'validation_failed',
            'unauthenticated',
            'insufficient_scope',
            'not_found',
          ),
        },
      },
      handler: async request =>
        await readPage(
          request.query,
          { position: (snapshot: Snapshot) => [snapshot.date], parts: [isDatePart] },
          ({ after, limit }) =>
            listSnapshots(db, environmentOf(request).id, { before: after?.[0] ?? null, limit }),
        ),
    });

    app.delete('/environments/:environmentId/snapshots/:date', {
      config: { access: { environment: 'snapshots:write' } },
      schema: {
        operationId: 'deleteSnapshot',
        summary: 'Delete a snapshot',
        description: 'Downloads that have begun still show it whole.',
        tags,
        params: snapshotParams,
        response: {
          204: Type.Null({ description: 'It is gone.' }),
          ...problemResponses(
            'validation_failed',
            'unauthenticated',
            'insufficient_scope',
            'not_found',
            'conflict',
            'payload_too_large',
            'unsupported_media_type',
          ),
        },
      },
      handler: async (request, reply) => {
        await deleteSnapshot(db, actorOf(request), environmentOf(request).id, request.params.date);
        return reply.code(204).send(null);
      },
    });

    done();
  };
}

function requireLoadableDate(wanted: string, today: string): void {
  if (wanted > today)
    throw validationFailed([
      { path: '/path/date', message: `is in the future: today is ${today} UTC` },
    ]);
  if (wanted < earliestDate)
    throw validationFailed([{ path: '/path/date', message: `is before ${earliestDate}` }]);
}
