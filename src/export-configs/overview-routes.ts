import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { isIdPart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses } from '../http/problem.ts';
import { documentedAs, literals } from '../http/schemas.ts';
import { type ConfigOfEnvironment, listAllConfigs } from './list-configs.sql.ts';
import { tags } from './schemas.ts';
import type { ConfigDependencies } from './service.ts';
import { outcomeSchema, overviewSchema, presentOverview } from './status-schemas.ts';

/** Registers the overview of the export configs of all environments. */
export function overviewRoutes({
  db,
  now,
}: Pick<ConfigDependencies, 'db' | 'now'>): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    app.get('/export-configs/status', {
      config: { access: 'operator' },
      schema: {
        operationId: 'listExportConfigStatuses',
        summary: 'List the status of all export configs',
        description: 'Of all environments, in order of environment and config id.',
        tags,
        querystring: Type.Object({
          ...pageQuery.properties,
          status: Type.Optional({
            ...outcomeSchema,
            description: 'Only configs whose last finished run had this outcome.',
          }),
          enabled: Type.Optional(
            documentedAs(literals(['true', 'false']), {
              type: 'boolean',
              description: 'Only configs that are turned on, or only those that are turned off.',
            }),
          ),
        }),
        response: {
          200: pageOf(overviewSchema, 'A page of export configs.'),
          ...problemResponses('validation_failed', 'unauthenticated', 'insufficient_scope'),
        },
      },
      handler: async request => {
        const { status = null, enabled } = request.query;
        const filter = { status, enabled: enabled === undefined ? null : enabled === 'true' };
        const page = await readPage(
          request.query,
          {
            position: ({ config }: ConfigOfEnvironment) => [config.environmentId, config.id],
            parts: [isIdPart, isIdPart],
          },
          ({ after, limit }) =>
            listAllConfigs(db, filter, {
              after: after && { environmentId: after[0] ?? '', id: after[1] ?? '' },
              limit,
            }),
        );
        const at = now();
        return { ...page, items: page.items.map(found => presentOverview(found, at)) };
      },
    });

    done();
  };
}
