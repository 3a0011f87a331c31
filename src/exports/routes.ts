import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { environmentOf } from '../environments/auth/access.ts';
import { environmentParams } from '../environments/routes.ts';
import { problemResponses } from '../http/problem.ts';
import { date, isoDate, literals, nullable } from '../http/schemas.ts';
import { acceptsGzip, sendDownload } from '../http/send-download.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { headerLine } from '../snapshots/columns.ts';
import { aggregations, aggregationTitles, shownDates } from './aggregations.ts';
import { exportDownload } from './download.ts';
import { describeExport, type ExportSource } from './open-export.ts';

export const aggregationSchema = literals(aggregations, {
  description: 'Which of the four exports.',
  examples: ['30-days-daily'],
});

const example = `${headerLine}c2,,Export,f1,2026-03-02,2026-01-15T00:00:00.000Z,2026-01-15T00:00:00.000Z,,,never,1,never,0,not rated,,0,"",""\n`;

const fileHeaders = {
  'content-disposition': Type.String({
    examples: ['attachment; filename="acme_today_2026-03-02.csv"'],
  }),
  'cache-control': Type.String({ examples: ['private, no-store'] }),
  'x-total-rows': Type.Integer({
    description: 'How many rows the file has, known before its first byte.',
  }),
  'x-missing-dates': Type.String({
    description: 'Dates without a snapshot, comma-separated; absent when none.',
  }),
};

/** The answer of a route that sends a file. */
export function fileResponse(...mediaTypes: ('text/csv' | 'application/gzip')[]) {
  const content = {
    'text/csv': { schema: Type.String({ examples: [example] }) },
    'application/gzip': { schema: Type.String({ format: 'binary' }) },
  };
  return {
    description:
      'The file: UTF-8, no BOM, LF, RFC 4180 quotes where needed, null as an empty field and an empty string as `""`. A failure after the first byte breaks the connection.',
    headers: fileHeaders,
    content: Object.fromEntries(mediaTypes.map(mediaType => [mediaType, content[mediaType]])),
  };
}

const tags = ['Manual export'];
const needsManualExport = {
  access: { environment: 'exports:read', feature: 'manual_export' },
} as const;
const fileProblems = problemResponses(
  'validation_failed',
  'unauthenticated',
  'insufficient_scope',
  'plan_upgrade_required',
  'not_found',
  'too_many_downloads',
);

export interface DownloadDependencies extends ExportSource {
  readonly downloadLimit: ConcurrencyLimit;
  readonly metrics: Metrics;
  readonly now: () => Date;
}

export function exportRoutes(dependencies: DownloadDependencies): FastifyPluginCallbackTypebox {
  const { downloadLimit, metrics, now } = dependencies;
  return (app, _options, done) => {
    app.get('/environments/:environmentId/exports', {
      config: needsManualExport,
      schema: {
        operationId: 'listExports',
        summary: 'List the four exports',
        description:
          'What each would hold now: its dates, the snapshot shown under each, and its rows.',
        tags,
        params: environmentParams,
        response: {
          200: Type.Object(
            {
              items: Type.Array(
                Type.Object({
                  aggregation: aggregationSchema,
                  title: Type.String(),
                  dates: Type.Array(date()),
                  missingDates: Type.Array(date()),
                  snapshotDates: Type.Array(nullable(date()), {
                    description: 'At the place of each date the snapshot shown under it, or null.',
                  }),
                  rowCount: Type.Integer(),
                  href: Type.String({ description: 'The path of the file.' }),
                }),
              ),
              nextCursor: Type.Null({ description: 'There are always four.' }),
            },
            { description: 'The four exports.' },
          ),
          ...problemResponses(
            'validation_failed',
            'unauthenticated',
            'insufficient_scope',
            'plan_upgrade_required',
            'not_found',
          ),
        },
      },
      handler: async request => {
        const { id } = environmentOf(request);
        const today = isoDate(now());
        const items = aggregations.map(async aggregation => {
          const dates = shownDates(aggregation, today);
          const { plan } = await describeExport(dependencies, id, dates, 'none');
          const shown = new Map(
            plan.sections.map(({ date, snapshotDate }) => [date, snapshotDate]),
          );
          return {
            aggregation,
            title: aggregationTitles[aggregation],
            dates: dates.map(({ date }) => date),
            missingDates: [...plan.missingDates],
            snapshotDates: dates.map(({ date }) => shown.get(date) ?? null),
            rowCount: plan.rowCount,
            href: `/v1/environments/${id}/exports/${aggregation}.csv`,
          };
        });
        return { items: await Promise.all(items), nextCursor: null };
      },
    });

    for (const extension of ['csv', 'csv.gz'] as const) {
      const gzipFile = extension === 'csv.gz';
      app.route({
        method: ['GET', 'HEAD'],
        url: `/environments/:environmentId/exports/:aggregation.${extension}`,
        config: needsManualExport,
        schema: {
          operationId: gzipFile ? 'downloadExportGzip' : 'downloadExport',
          summary: gzipFile ? 'Download an export as a gzip file' : 'Download an export',
          description: gzipFile
            ? 'The same CSV as a gzip file.'
            : 'Ordered by Date, Company ID and Feature ID, in byte order. `Accept-Encoding: gzip` is honoured.',
          tags,
          params: Type.Object({ ...environmentParams.properties, aggregation: aggregationSchema }),
          response: {
            200: fileResponse(gzipFile ? 'application/gzip' : 'text/csv'),
            ...fileProblems,
          },
        },
        handler: async (request, reply) => {
          const environmentId = environmentOf(request).id;
          const packing = gzipFile
            ? 'gzip-file'
            : acceptsGzip(request)
              ? 'content-encoding'
              : 'none';
          const { aggregation } = request.params;
          const download = exportDownload(dependencies, {
            environmentId,
            aggregation,
            today: isoDate(now()),
            packing,
          });
          return await sendDownload(request, reply, {
            concurrencyLimit: downloadLimit,
            metrics,
            environmentId,
            download,
          });
        },
      });
    }

    done();
  };
}
