import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { actorOf, environmentOf } from '../environments/auth/access.ts';
import { environmentParams } from '../environments/routes.ts';
import { problemResponses, readProblems } from '../http/problem.ts';
import { date, nullable } from '../http/schemas.ts';
import { extensionOf } from '../shared/file-format.ts';
import { isoDate } from '../shared/iso-date.ts';
import { aggregations, aggregationTitles, shownDates } from './aggregations.ts';
import { describeExport } from './describe-export.ts';
import {
  aggregationSchema,
  asOfSchema,
  fileProblemCodes,
  fileResponses,
  requireAsOf,
} from './schemas.ts';
import { createExportSender, type ExportSenderDependencies, entityTag } from './send-export.ts';

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
      '`If-Match`, `Range` and `If-Range` follow RFC 9110. Only an `ETag` matches `If-Range`. ' +
      'A process sends 256 files at once, 32 of an environment. Of files with a snapshot that is ' +
      'not rendered it sends 16, 8 of an environment. It refuses more with `too_many_downloads`.',
  },
  {
    format: 'csv',
    compression: 'gzip',
    operationId: 'downloadExportGzip',
    summary: 'Download an export as a gzip file',
    description: 'Sends the CSV as a gzip file. The limits of CSV downloads apply.',
  },
  {
    format: 'parquet',
    compression: 'none',
    operationId: 'downloadExportParquet',
    summary: 'Download an export as a Parquet file',
    description:
      'Sends the rows of the CSV as a Parquet file, compressed with zstd. A process converts 2 ' +
      'files at once, 1 of an environment, and refuses more with `too_many_downloads`. The length ' +
      'is unknown beforehand and `Range` is ignored.',
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
        // One after the other, because parallel queries would take a connection each.
        const items = await Array.fromAsync(aggregations, async aggregation => {
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
        return { items, nextCursor: null };
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
            ...problemResponses(...callerProblemCodes, ...fileProblemCodes(extension)),
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
