import { randomBytes } from 'node:crypto';
import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import { recordChange } from '../audit/audit-log-repository.ts';
import {
  actorIn,
  actorOf,
  type Caller,
  callerOf,
  environmentOf,
  logCaller,
} from '../environments/auth/access.ts';
import { unauthenticated } from '../environments/auth/authenticate.ts';
import { requirePlan } from '../environments/auth/authorize.ts';
import type { RateLimits } from '../environments/auth/rate-limits.ts';
import { findEnvironmentOf } from '../environments/auth/recheck-access.sql.ts';
import { environmentParams } from '../environments/routes.ts';
import { problemResponses, writeProblems } from '../http/problem.ts';
import { fileFormat, instant, literals } from '../http/schemas.ts';
import { validationFailed } from '../shared/errors.ts';
import { compressionErrors, compressions } from '../shared/file-format.ts';
import { isoDate } from '../shared/iso-date.ts';
import { shownDates } from './aggregations.ts';
import { describeExport } from './describe-export.ts';
import { type LinkTokens, maxTokenLength } from './link-tokens.ts';
import {
  aggregationSchema,
  asOfSchema,
  fileProblemCodes,
  fileResponses,
  requireAsOf,
} from './schemas.ts';
import { createExportSender, type ExportSenderDependencies } from './send-export.ts';

interface LinkRouteDependencies extends ExportSenderDependencies {
  readonly linkTokens: LinkTokens;
  readonly limits: RateLimits;
  readonly publicUrl: string | null;
}

const defaultExpirySeconds = 300;
const maxExpirySeconds = 3_600;
const tags = ['Manual export'];

export function linkRoutes(dependencies: LinkRouteDependencies): FastifyPluginCallbackTypebox {
  const { db, linkTokens, limits, publicUrl, now } = dependencies;
  return (app, _options, done) => {
    const send = createExportSender(app, dependencies);

    app.post('/environments/:environmentId/download-links', {
      config: { access: { environment: 'exports:read', feature: 'manual_export' } },
      schema: {
        operationId: 'createDownloadLink',
        summary: 'Create a download link',
        description:
          'Returns a signed link that a browser can follow without a header. It opens one file of one ' +
          'environment. It becomes invalid when it expires, when its API key is revoked, when the ' +
          'plan is lowered, and when the environment is deleted. A link of a user token expires no ' +
          'later than the token.',
        tags,
        params: environmentParams,
        body: Type.Object(
          {
            aggregation: aggregationSchema,
            format: Type.Optional(fileFormat),
            compression: Type.Optional(
              literals(compressions, {
                default: 'none',
                description: 'Must be `none` for `parquet`.',
              }),
            ),
            asOf: Type.Optional(asOfSchema),
            expiresInSeconds: Type.Optional(
              Type.Integer({
                minimum: 60,
                maximum: maxExpirySeconds,
                default: defaultExpirySeconds,
              }),
            ),
          },
          { title: 'DownloadLinkInput', additionalProperties: false },
        ),
        response: {
          201: Type.Object(
            {
              url: Type.String({ format: 'uri' }),
              expiresAt: instant(),
              rowCount: Type.Integer({ description: 'Current number of rows of the file.' }),
              sizeBytes: Type.Unsafe<number | null>({
                type: ['integer', 'null'],
                description:
                  'Current size of the file in bytes; null if it is unknown, as for Parquet.',
              }),
            },
            { title: 'DownloadLink', description: 'The link.' },
          ),
          ...problemResponses(...writeProblems, 'plan_upgrade_required'),
        },
      },
      handler: async (request, reply) => {
        const {
          aggregation,
          format = 'csv',
          compression = 'none',
          asOf,
          expiresInSeconds = defaultExpirySeconds,
        } = request.body;
        const issuedAt = now();
        requireAsOf(asOf, '/asOf', issuedAt);
        const errors = compressionErrors({ format, compression });
        if (errors.length > 0) throw validationFailed(errors);
        const { id: environmentId, createdAt: incarnation } = environmentOf(request);
        const origin = publicUrl ?? originOf(request);
        const dates = shownDates(aggregation, asOf ?? isoDate(issuedAt));
        const wanted = { environmentId, dates, format, compression };
        const { rowCount, sizeBytes } = await describeExport(dependencies.exportPool, wanted);
        const expires = linkExpiry(callerOf(request), issuedAt, expiresInSeconds);
        const expiresAt = expires.toISOString();
        const file = { aggregation, asOf: asOf ?? null, format, compression };
        const linkId = randomBytes(12).toString('base64url');
        const actor = actorOf(request);
        const maker = { kind: actor.kind, id: actor.id };
        await recordChange(db, actor, {
          environmentId,
          action: 'download_link.created',
          targetId: linkId,
          details: { ...file, expiresAt },
        });
        const grant = { ...file, environmentId, linkId, incarnation, maker };
        const url = `${origin}/v1/downloads/${await linkTokens.sign(grant, issuedAt, expires)}`;
        return reply.code(201).send({ url, expiresAt, rowCount, sizeBytes });
      },
    });

    app.route({
      method: ['GET', 'HEAD'],
      url: '/downloads/:token',
      // The token grants access.
      config: { access: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'followDownloadLink',
        summary: 'Follow a download link',
        description: 'Sends the file of the link. The limits of downloads apply.',
        tags,
        security: [],
        params: Type.Object({
          token: Type.String({
            maxLength: maxTokenLength,
            description: 'Token in the `url` of a download link.',
          }),
        }),
        response: {
          ...fileResponses('csv', 'csv.gz', 'parquet'),
          ...problemResponses(
            'unauthenticated',
            'insufficient_scope',
            'plan_upgrade_required',
            ...fileProblemCodes('csv', 'csv.gz', 'parquet'),
          ),
        },
      },
      handler: async (request, reply) => {
        const grant = await linkTokens.verify(request.params.token, now());
        if (grant !== null) {
          logCaller(request, reply, grant.maker);
          await limits.countLinkRequest(request, grant.linkId, grant.maker);
        }
        const environment = grant && (await findEnvironmentOf(db, grant, 'exports:read', now()));
        if (grant === null || environment === null) {
          await limits.countFailedLogin(request, null);
          throw unauthenticated(
            'The link is malformed or expired, or its API key or environment no longer exists.',
          );
        }
        requirePlan(environment, 'manual_export');
        const origin = { actor: actorIn(request, grant.maker), linkId: grant.linkId };
        return await send(request, reply, grant, origin);
      },
    });

    done();
  };
}

/**
 * Returns the expiry of a link. A link of a user expires no later than the access token, because
 * nothing else ends it when the user loses access.
 */
function linkExpiry(caller: Caller, issuedAt: Date, expiresInSeconds: number): Date {
  const wantedMs = issuedAt.getTime() + expiresInSeconds * 1000;
  const lastMs = caller.kind === 'user' ? Math.min(wantedMs, caller.expiresAt.getTime()) : wantedMs;
  // Tokens store whole seconds.
  return new Date(Math.floor(lastMs / 1000) * 1000);
}

/**
 * Returns the origin of the request.
 * @throws AppError `validation_failed` if the caller sent no host, as HTTP/1.0 allows
 */
function originOf(request: FastifyRequest): string {
  if (request.host === '')
    throw validationFailed([{ path: '/headers/host', message: 'is required for a link' }]);
  return `${request.protocol === 'https' ? 'https' : 'http'}://${request.host}`;
}
