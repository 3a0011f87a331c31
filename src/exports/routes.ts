import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { actorOf, environmentOf } from '../environments/auth/access.ts';
import { environmentParams } from '../environments/routes.ts';
import { problemResponses, readProblems } from '../http/problem.ts';
import { date, literals, nullable } from '../http/schemas.ts';
import { validationFailed } from '../shared/errors.ts';
import { extensionOf, mediaTypes } from '../shared/file-format.ts';
import { isoDate } from '../shared/iso-date.ts';
import { headerLine } from '../snapshots/columns.ts';
import { aggregations, aggregationTitles, shownDates } from './aggregations.ts';
import { describeExport } from './describe-export.ts';
import { createExportSender, type ExportSenderDependencies, entityTag } from './send-export.ts';

export const aggregationSchema = literals(aggregations, {
  title: 'Aggregation',
  description: 'One of the four exports.',
  examples: ['30-days-daily'],
});

export const asOfSchema = date(
  'UTC date on which the file is based. Default: the current date. Not in the future.',
);

/** Earliest `asOf`, so that no shown date is before year 1. No snapshot is that old. */
const earliestAsOf = '1970-01-01';

/**
 * Checks the range of `asOf`.
 * @throws AppError `validation_failed`
 */
export function requireAsOf(asOf: string | undefined, path: string, now: Date): void {
  if (asOf === undefined) return;
  if (asOf > isoDate(now)) throw validationFailed([{ path, message: 'is in the future' }]);
  if (asOf < earliestAsOf) {
    throw validationFailed([{ path, message: `must not be before ${earliestAsOf}` }]);
  }
}

const example = `${headerLine}c2,,Export,f1,2026-03-02,2026-01-15T00:00:00.000Z,2026-01-15T00:00:00.000Z,,,never,1,never,0,not rated,,0,"",""\n`;

const validatorHeaders = {
  etag: Type.String({ description: 'Strong entity tag. Equal bytes have equal tags.' }),
  'last-modified': Type.String({
    description:
      'Time at which the newest snapshot of the file was completed; absent if there is none.',
  }),
  'cache-control': Type.String({ examples: ['private, no-cache'] }),
};

const fileHeaders = {
  ...validatorHeaders,
  'content-disposition': Type.String({
    examples: ['attachment; filename="acme_today_2026-03-02.csv"'],
  }),
  'x-total-rows': Type.Integer({ description: 'Number of rows of the whole file.' }),
  'x-missing-dates': Type.String({
    description: 'Dates without a snapshot, separated by commas; absent if there are none.',
  }),
  'accept-ranges': Type.String({
    description: '`bytes`, with `content-length`, once all snapshots of the file are rendered.',
  }),
};

/** Returns the responses of a route that sends files with these extensions, without its problems. */
export function fileResponses(...extensions: (keyof typeof mediaTypes)[]) {
  const content = Object.fromEntries(
    extensions.map(extension => {
      const options = extension === 'csv' ? { examples: [example] } : { format: 'binary' };
      return [mediaTypes[extension], { schema: Type.String(options) }];
    }),
  );
  return {
    200: {
      description:
        'The file. CSV: UTF-8, no BOM, LF, RFC 4180 quotes where needed, null as an empty field and an empty string as `""`. A failure after the first byte resets the connection.',
      headers: fileHeaders,
      content,
    },
    206: {
      description:
        'The requested range of the file. A request for several ranges gets the whole file. A Parquet file has no ranges.',
      headers: {
        ...fileHeaders,
        'content-range': Type.String({ examples: ['bytes 1048576-1205850223/1205850224'] }),
      },
      content,
    },
    304: {
      description: 'The file has not changed since `If-None-Match` or `If-Modified-Since`.',
      headers: validatorHeaders,
    },
  };
}

/** Problems of a route that sends a file, in addition to those of the caller. */
export const fileProblemCodes = [
  'validation_failed',
  'precondition_failed',
  'range_not_satisfiable',
  'too_many_downloads',
] as const;

/** Files of an aggregation, one for each extension of the path. */
const fileForms = [
  {
    format: 'csv',
    compression: 'none',
    operationId: 'downloadExport',
    summary: 'Download an export',
    description:
      'Sends rows ordered by Date, Company ID and Feature ID, in byte order. The response is ' +
      'compressed if `Accept-Encoding` allows gzip. `If-None-Match`, `If-Modified-Since`, ' +
      '`If-Match`, `Range` and `If-Range` follow RFC 9110.',
  },
  {
    format: 'csv',
    compression: 'gzip',
    operationId: 'downloadExportGzip',
    summary: 'Download an export as a gzip file',
    description: 'Sends the CSV as a gzip file.',
  },
  {
    format: 'parquet',
    compression: 'none',
    operationId: 'downloadExportParquet',
    summary: 'Download an export as a Parquet file',
    description:
      'Sends the rows of the CSV as a Parquet file, compressed with zstd. A process sends few ' +
      'such files at once, and one of each environment: `too_many_downloads`. Its length is ' +
      'unknown beforehand and `Range` is ignored.',
  },
] as const;

const tags = ['Manual export'];
const needsManualExport = {
  access: { environment: 'exports:read', feature: 'manual_export' },
} as const;
const callerProblemCodes = [...readProblems, 'plan_upgrade_required'] as const;

export function exportRoutes(dependencies: ExportSenderDependencies): FastifyPluginCallbackTypebox {
  const { exportPool, now } = dependencies;
  return (app, _options, done) => {
    const send = createExportSender(app, dependencies);

    app.get('/environments/:environmentId/exports', {
      config: needsManualExport,
      schema: {
        operationId: 'listExports',
        summary: 'List the four exports',
        description:
          'Returns the current content of each export: dates, their snapshots, and number of rows.',
        tags,
        params: environmentParams,
        response: {
          200: Type.Object(
            {
              items: Type.Array(
                Type.Object(
                  {
                    aggregation: aggregationSchema,
                    title: Type.String(),
                    dates: Type.Array(date()),
                    missingDates: Type.Array(date()),
                    snapshotDates: Type.Array(nullable(date()), {
                      description: 'Date of the snapshot shown for each item of `dates`, or null.',
                    }),
                    rowCount: Type.Integer(),
                    sizeBytes: Type.Unsafe<number | null>({
                      type: ['integer', 'null'],
                      description:
                        'Size of the CSV in bytes; null while one of its snapshots is not rendered.',
                    }),
                    etag: Type.String({ description: '`ETag` of the CSV.' }),
                    href: Type.String({ description: 'Path of the file.' }),
                  },
                  { title: 'Export' },
                ),
              ),
              nextCursor: Type.Null({ description: 'Always null: the list has four items.' }),
            },
            { title: 'ExportList', description: 'The four exports.' },
          ),
          ...problemResponses(...callerProblemCodes),
        },
      },
      handler: async request => {
        const { id } = environmentOf(request);
        const today = isoDate(now());
        const items = aggregations.map(async aggregation => {
          const dates = shownDates(aggregation, today);
          const wanted = { environmentId: id, dates, format: 'csv', compression: 'none' } as const;
          const described = await describeExport(exportPool, wanted);
          const { sections, missingDates, rowCount, sizeBytes } = described;
          const shown = new Map(sections.map(section => [section.date, section.snapshotDate]));
          return {
            aggregation,
            title: aggregationTitles[aggregation],
            dates: dates.map(({ date }) => date),
            missingDates: [...missingDates],
            snapshotDates: dates.map(({ date }) => shown.get(date) ?? null),
            rowCount,
            sizeBytes,
            etag: entityTag(described.contentHash, 'csv'),
            href: `/v1/environments/${id}/exports/${aggregation}.csv`,
          };
        });
        return { items: await Promise.all(items), nextCursor: null };
      },
    });

    for (const form of fileForms) {
      const { format, compression, ...documentation } = form;
      const extension = extensionOf(form);
      app.route({
        method: ['GET', 'HEAD'],
        url: `/environments/:environmentId/exports/:aggregation.${extension}`,
        config: { ...needsManualExport, hasOwnLimit: true },
        schema: {
          ...documentation,
          tags,
          params: Type.Object({ ...environmentParams.properties, aggregation: aggregationSchema }),
          querystring: Type.Object({ asOf: Type.Optional(asOfSchema) }),
          response: {
            ...fileResponses(extension),
            ...problemResponses(...callerProblemCodes, ...fileProblemCodes),
          },
        },
        handler: async (request, reply) => {
          const { asOf } = request.query;
          requireAsOf(asOf, '/query/asOf', now());
          const { id: environmentId } = environmentOf(request);
          const { aggregation } = request.params;
          const file = { environmentId, aggregation, asOf: asOf ?? null, format, compression };
          return await send(request, reply, file, { actor: actorOf(request), linkId: null });
        },
      });
    }

    done();
  };
}
