import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { environmentOf } from '../environments/auth/access.ts';
import { environmentParams } from '../environments/routes.ts';
import { problemResponses } from '../http/problem.ts';
import { checkConfig } from './check-config.ts';
import { checkResultSchema } from './check-schemas.ts';
import { getConfig } from './list-configs.sql.ts';
import { readNewConfig } from './read-config-body.ts';
import {
  checkLimits,
  configParams,
  mayWrite,
  newConfigBody,
  planProblems,
  tags,
} from './schemas.ts';
import { accessOf, type ConfigDependencies, grantAccess } from './service.ts';

/** Registers routes that check a destination without storing anything. */
export function validateRoutes(dependencies: ConfigDependencies): FastifyPluginCallbackTypebox {
  const { db, now } = dependencies;
  return (app, _options, done) => {
    app.post('/environments/:environmentId/export-configs/validate', {
      config: mayWrite,
      schema: {
        operationId: 'validateNewExportConfig',
        summary: 'Check a destination',
        description:
          'Lists the bucket under the real folder, then starts and aborts an upload there, which ' +
          'leaves no object. Nothing is stored. Takes at most 15 s. ' +
          checkLimits,
        tags,
        params: environmentParams,
        body: newConfigBody,
        response: { 200: checkResultSchema, ...problemResponses(...planProblems) },
      },
      handler: async request => {
        const { settings, access } = readNewConfig(request.body);
        const { id } = environmentOf(request);
        const granted = await grantAccess(dependencies, id, access);
        return presentCheck(await checkConfig(dependencies, id, settings, granted, now()));
      },
    });

    app.post('/environments/:environmentId/export-configs/:configId/validate', {
      config: mayWrite,
      schema: {
        operationId: 'validateExportConfig',
        summary: 'Check a stored destination',
        description: `Checks the destination of a stored config. Nothing changes. ${checkLimits}`,
        tags,
        params: configParams,
        response: { 200: checkResultSchema, ...problemResponses(...planProblems) },
      },
      handler: async request => {
        const { id } = environmentOf(request);
        const { config } = await getConfig(db, id, request.params.configId);
        const access = await grantAccess(dependencies, id, accessOf(dependencies, config));
        return presentCheck(await checkConfig(dependencies, id, config, access, now()));
      },
    });

    done();
  };
}

function presentCheck({ valid, checks }: Awaited<ReturnType<typeof checkConfig>>) {
  return { valid, checks: [...checks] };
}
