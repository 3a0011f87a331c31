import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import { actorOf, environmentOf } from '../environments/auth/access.ts';
import type { Environment } from '../environments/environments-repository.ts';
import { environmentParams } from '../environments/routes.ts';
import { pageOf, pageQuery, readNewestFirst } from '../http/pagination.ts';
import { problemResponses, readProblems, writeProblems } from '../http/problem.ts';
import { type ConfigWithHistory, getConfig, listConfigs } from './list-configs.sql.ts';
import { maxConfigs } from './repository.ts';
import {
  checkLimits,
  configParams,
  configPatchBody,
  configSchema,
  mayDelete,
  mayRead,
  mayWrite,
  newConfigBody,
  planProblems,
  presentConfig,
  tags,
} from './schemas.ts';
import { type ConfigDependencies, createConfig, deleteConfig, patchConfig } from './service.ts';
import { statusSchema } from './status-schemas.ts';

export function configRoutes(dependencies: ConfigDependencies): FastifyPluginCallbackTypebox {
  const { db, now } = dependencies;
  const present = (found: ConfigWithHistory, environment: Environment) =>
    presentConfig(found, environment.plan, now());

  return (app, _options, done) => {
    app.post('/environments/:environmentId/export-configs', {
      config: mayWrite,
      schema: {
        operationId: 'createExportConfig',
        summary: 'Create an export config',
        description:
          'Checks the bucket first, like `…/validate`. If a check fails, nothing is stored. Fails with ' +
          '`conflict` if another config of the environment writes the same object. The first run is ' +
          'at the next slot. ' +
          `Also fails with \`conflict\` if the environment has ${maxConfigs} configs. ` +
          checkLimits,
        tags,
        params: environmentParams,
        body: newConfigBody,
        response: {
          201: configSchema,
          ...problemResponses(...planProblems, 'conflict', 'storage_validation_failed'),
        },
      },
      handler: async (request, reply) => {
        const environment = environmentOf(request);
        const created = await createConfig(
          dependencies,
          actorOf(request),
          environment.id,
          request.body,
        );
        return reply.code(201).send(present(created, environment));
      },
    });

    app.get('/environments/:environmentId/export-configs', {
      config: mayRead,
      schema: {
        operationId: 'listExportConfigs',
        summary: 'List export configs',
        description: 'Newest first, each with its status.',
        tags,
        params: environmentParams,
        querystring: pageQuery,
        response: {
          200: pageOf(configSchema, 'A page of export configs.'),
          ...problemResponses(...readProblems),
        },
      },
      handler: async request => {
        const environment = environmentOf(request);
        const page = await readNewestFirst(
          request.query,
          ({ config: { createdAt, id } }: ConfigWithHistory) => ({
            createdAt: createdAt.toISOString(),
            id,
          }),
          wanted => listConfigs(db, environment.id, wanted),
        );
        return { ...page, items: page.items.map(found => present(found, environment)) };
      },
    });

    app.get('/environments/:environmentId/export-configs/:configId', {
      config: mayRead,
      schema: {
        operationId: 'getExportConfig',
        summary: 'Read an export config',
        tags,
        params: configParams,
        response: { 200: configSchema, ...problemResponses(...readProblems) },
      },
      handler: async request => {
        const environment = environmentOf(request);
        return present(await getConfig(db, environment.id, request.params.configId), environment);
      },
    });

    app.get('/environments/:environmentId/export-configs/:configId/status', {
      config: mayRead,
      schema: {
        operationId: 'getExportConfigStatus',
        summary: 'Read the status of an export config',
        tags,
        params: configParams,
        response: { 200: statusSchema, ...problemResponses(...readProblems) },
      },
      handler: async request => {
        const environment = environmentOf(request);
        return present(await getConfig(db, environment.id, request.params.configId), environment)
          .status;
      },
    });

    app.patch('/environments/:environmentId/export-configs/:configId', {
      config: mayWrite,
      schema: {
        operationId: 'updateExportConfig',
        summary: 'Change an export config',
        description:
          'Checks the bucket first if destination or credentials change, or if the config is turned ' +
          'on. Turning it off cancels an unfinished run, which ends as failed with `cancelled`. ' +
          'After it is turned on or its schedule changes, the first run is at the next slot.',
        tags,
        params: configParams,
        body: configPatchBody,
        response: {
          200: configSchema,
          ...problemResponses(...planProblems, 'conflict', 'storage_validation_failed'),
        },
      },
      handler: async request => {
        const environment = environmentOf(request);
        const { configId } = request.params;
        const patched = await patchConfig(
          dependencies,
          actorOf(request),
          environment.id,
          configId,
          request.body,
        );
        return present(patched, environment);
      },
    });

    app.delete('/environments/:environmentId/export-configs/:configId', {
      config: mayDelete,
      schema: {
        operationId: 'deleteExportConfig',
        summary: 'Delete an export config',
        description:
          'Deletes the config with its history. An unfinished run is cancelled within seconds and ' +
          'leaves nothing in the bucket. Files of finished runs stay.',
        tags,
        params: configParams,
        response: {
          204: Type.Null({ description: 'The config is deleted.' }),
          ...problemResponses(...writeProblems),
        },
      },
      handler: async (request, reply) => {
        await deleteConfig(
          dependencies,
          actorOf(request),
          environmentOf(request).id,
          request.params.configId,
        );
        return reply.code(204).send(null);
      },
    });

    done();
  };
}
