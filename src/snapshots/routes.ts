import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { Config } from '../config/config.ts';
import type { Database } from '../db/database.ts';
import { actorOf, callerOf, environmentOf } from '../environments/auth/access.ts';
import { environmentParams } from '../environments/routes.ts';
import { isDatePart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses, readProblems, writeProblems } from '../http/problem.ts';
import { date, instant, nullable } from '../http/schemas.ts';
import { openStreamedBody, type StreamedBody, streamedBodyHeaders } from '../http/streamed-body.ts';
import type { IngestOutcome, Metrics } from '../observability/metrics.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { AppError, validationFailed } from '../shared/errors.ts';
import { isoDate } from '../shared/iso-date.ts';
import { type IngestDependencies, ingestSnapshot } from './ingest/ingest-snapshot.ts';
import {
  deleteSnapshot,
  findSnapshot,
  listSnapshots,
  type Snapshot,
} from './registry-repository.ts';

const ingestedProperties = {
  date: date('UTC day of the snapshot: the state at its end.'),
  version: Type.String({ format: 'uuid', description: 'Differs for every replacement.' }),
  rowCount: Type.Integer(),
  completedAt: instant(),
};
const ingestedSchema = Type.Object(ingestedProperties, {
  title: 'IngestedSnapshot',
  description: 'The snapshot as ingested.',
});
const snapshotSchema = Type.Object(
  {
    ...ingestedProperties,
    renderedAt: nullable(instant('Time at which this version was rendered; null before that.')),
  },
  { title: 'Snapshot', description: 'A complete snapshot.' },
);

const exampleCsv =
  'Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,' +
  'STARS State,Frequency,Satisfaction,Feedback Count,Segment Names,Segment IDs\n' +
  'c2,,f1,Export,2026-01-15T00:00:00Z,2026-01-15T00:00:00Z,,,1,0,,0,"",""\n';

const dateParam = Type.String({
  format: 'date',
  description: 'UTC date of the snapshot.',
  examples: ['2026-03-01'],
});
const snapshotParams = Type.Object({ ...environmentParams.properties, date: dateParam });

const csvRequestBody = {
  required: true,
  description:
    'CSV in UTF-8 with a header line. `docs/file-format.md` describes the columns and the limits.',
  content: { 'text/csv': { schema: { type: 'string' }, example: exampleCsv } },
};

const ingestQuery = Type.Object({
  rowCount: Type.Optional(
    Type.Integer({
      minimum: 0,
      // Fifteen digits stay exact as a number.
      maximum: 999_999_999_999_999,
      description: 'Refuses a body with another number of rows, such as a truncated one.',
    }),
  ),
});

const bodyLimits = {
  /** About 50 million rows. A gzip bomb of valid rows would fill the disk of the database. */
  maxBytes: 16 * 1024 ** 3,
  names: { request: 'An ingest', body: 'A snapshot' },
} as const;

const tags = ['Snapshots'];
const writeScope = 'snapshots:write';
const readAccess = { environment: ['exports:read', writeScope] } as const;

interface SnapshotRouteDependencies extends IngestDependencies {
  readonly config: Pick<Config, 'ingest' | 'retention'>;
  readonly db: Database;
  readonly ingestLimit: ConcurrencyLimit;
  readonly metrics: Metrics;
  /** Called after each ingest, before the response. Must not reject. */
  readonly onIngested: (environmentId: string, date: string) => Promise<void>;
}

export function snapshotRoutes(
  dependencies: SnapshotRouteDependencies,
): FastifyPluginCallbackTypebox {
  const { config, db, ingestLimit, metrics, now, onIngested } = dependencies;
  return (app, _options, done) => {
    app.register((uploads: typeof app, _uploadOptions, uploadsDone) => {
      uploads.removeAllContentTypeParsers();
      // The body stays a stream. The handler reads it at the pace of the database.
      uploads.addContentTypeParser('text/csv', (_request, payload, parsed) =>
        parsed(null, payload),
      );

      uploads.put('/environments/:environmentId/snapshots/:date', {
        config: { access: { environment: writeScope }, hasOwnLimit: true },
        schema: {
          operationId: 'putSnapshot',
          summary: 'Ingest a snapshot',
          description:
            'Replaces the snapshot of that date atomically: readers see the old one or the ' +
            'new one. A body that is truncated or has an invalid row changes nothing. The ' +
            'date may not be in the future, nor more than 400 days in the past (3,660 if all ' +
            'snapshots are kept). The header names the columns in any order. An empty field ' +
            'without quotes is null, `""` is an empty string. Where the column Date is not ' +
            'empty, it must be the date of the path. `Content-Encoding: gzip` is understood. ' +
            'A body has at most 16 GiB after decompression, a header of at most 8 KiB and 64 ' +
            'columns, and rows of at most 1 MiB. A body that takes longer than an hour, or arrives ' +
            'at less than 1,024 bytes a second over 60 s, is answered with 408, unless the ' +
            'operator set other times. A process ingests 4 snapshots at once, 2 of an ' +
            'environment. It refuses more with `rate_limited`. Answers `conflict` with ' +
            '`Retry-After` while another request ingests the same snapshot.',
          tags,
          'x-request-body': csvRequestBody,
          params: snapshotParams,
          querystring: ingestQuery,
          headers: streamedBodyHeaders,
          response: {
            200: {
              ...ingestedSchema,
              'x-response-description': 'The snapshot replaced an earlier one.',
            },
            201: { ...ingestedSchema, 'x-response-description': 'The date had no snapshot.' },
            ...problemResponses(
              ...writeProblems,
              'digest_mismatch',
              'request_timeout',
              'conflict',
              'snapshot_invalid',
              'rate_limited',
            ),
          },
        },
        handler: async (request, reply) => {
          const { params, query } = request;
          requireDateInRange(params.date, now(), config.retention.snapshots);
          const environment = environmentOf(request);
          const release = ingestLimit.acquire(environment.id);
          const startedAt = performance.now();
          let body: StreamedBody | null = null;
          let outcome: IngestOutcome = 'failed';
          let rows = 0;
          try {
            body = openStreamedBody(request.raw, { ...config.ingest, ...bodyLimits });
            const { created, ...ingested } = await ingestSnapshot(dependencies, {
              environment,
              date: params.date,
              body,
              announcedRows: query.rowCount ?? null,
              caller: callerOf(request),
              actor: actorOf(request),
            });
            outcome = 'complete';
            rows = ingested.rowCount;
            await onIngested(environment.id, ingested.date);
            return reply.code(created ? 201 : 200).send(ingested);
          } catch (error) {
            outcome = outcomeOf(error, body?.signal.aborted === true);
            throw error;
          } finally {
            body?.close();
            release();
            const seconds = (performance.now() - startedAt) / 1000;
            metrics.ingestEnded({ outcome, rows, bytes: body?.bytes ?? 0, seconds });
          }
        },
      });
      uploadsDone();
    });

    app.get('/environments/:environmentId/snapshots', {
      config: { access: readAccess },
      schema: {
        operationId: 'listSnapshots',
        summary: 'List snapshots',
        description: 'Newest first.',
        tags,
        params: environmentParams,
        querystring: pageQuery,
        response: {
          200: pageOf(snapshotSchema, 'A page of snapshots.'),
          ...problemResponses(...readProblems),
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

    app.get('/environments/:environmentId/snapshots/:date', {
      config: { access: readAccess },
      schema: {
        operationId: 'getSnapshot',
        summary: 'Read a snapshot',
        description: 'Returns one item of the list.',
        tags,
        params: snapshotParams,
        response: {
          200: snapshotSchema,
          ...problemResponses(...readProblems),
        },
      },
      handler: async request =>
        await findSnapshot(db, environmentOf(request).id, request.params.date),
    });

    app.delete('/environments/:environmentId/snapshots/:date', {
      config: { access: { environment: writeScope } },
      schema: {
        operationId: 'deleteSnapshot',
        summary: 'Delete a snapshot',
        description:
          'Downloads in progress continue with the deleted data. Answers `conflict` with ' +
          '`Retry-After` while the snapshot is being ingested or removed.',
        tags,
        params: snapshotParams,
        response: {
          204: Type.Null({ description: 'The snapshot was deleted.' }),
          ...problemResponses(...writeProblems, 'conflict'),
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

const maxAgeDays = { needed: 400, all: 3_660 } as const;

/**
 * Requires a date in the allowed range. Each date has a partition, so their number must be limited.
 */
function requireDateInRange(date: string, now: Date, kept: keyof typeof maxAgeDays): void {
  const [today, maxAge] = [isoDate(now), maxAgeDays[kept]];
  const earliest = isoDate(new Date(now.getTime() - maxAge * 86_400_000));
  if (date >= earliest && date <= today) return;
  const message =
    date > today
      ? `is in the future: today is ${today} UTC`
      : `is more than ${maxAge} days in the past: the earliest date is ${earliest}`;
  throw validationFailed([{ path: '/path/date', message }]);
}

function outcomeOf(error: unknown, isAborted: boolean): IngestOutcome {
  if (error instanceof AppError && error.code === 'request_timeout') return 'stalled';
  if (isAborted) return 'sender_gone';
  return error instanceof AppError && error.status < 500 ? 'refused' : 'failed';
}
