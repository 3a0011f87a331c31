import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import type { Database } from '../db/database.ts';
import { type Caller, callerOf, environmentOf } from '../environments/auth/access.ts';
import { findApiKey } from '../environments/auth/api-keys-repository.ts';
import { unauthenticated } from '../environments/auth/authenticate.ts';
import { requirePlan, requireScope } from '../environments/auth/authorize.ts';
import type { RateLimits } from '../environments/auth/rate-limits.ts';
import { type Environment, findEnvironment } from '../environments/environments-repository.ts';
import { environmentParams } from '../environments/routes.ts';
import { problemResponses } from '../http/problem.ts';
import { instant, isoDate, literals } from '../http/schemas.ts';
import { acceptsGzip, sendDownload } from '../http/send-download.ts';
import { AppError } from '../shared/errors.ts';
import { exportDownload } from './download.ts';
import type { LinkGrant, LinkTokens } from './link-tokens.ts';
import { aggregationSchema, type DownloadDependencies, fileResponse } from './routes.ts';

interface LinkRouteDependencies extends DownloadDependencies {
  readonly db: Database;
  readonly linkTokens: LinkTokens;
  readonly limits: RateLimits;
  readonly publicUrl: string | null;
}

const defaultExpirySeconds = 300;
const tags = ['Manual export'];

export function linkRoutes(dependencies: LinkRouteDependencies): FastifyPluginCallbackTypebox {
  const { db, linkTokens, limits, publicUrl, downloadLimit, metrics, now } = dependencies;
  return (app, _options, done) => {
    app.post('/environments/:environmentId/download-links', {
      config: { access: { environment: 'exports:read', feature: 'manual_export' } },
      schema: {
        operationId: 'createDownloadLink',
        summary: 'Make a download link',
        description:
          'A signed link that a browser can follow without a header. It opens that one file of that one environment and dies with its time, its API key or the plan. One that a user of the identity provider makes ends no later than their token, whatever `expiresInSeconds` says.',
        tags,
        params: environmentParams,
        body: Type.Object(
          {
            aggregation: aggregationSchema,
            compression: Type.Optional(literals(['none', 'gzip'], { default: 'none' })),
            expiresInSeconds: Type.Optional(
              Type.Integer({ minimum: 60, maximum: 3600, default: defaultExpirySeconds }),
            ),
          },
          { additionalProperties: false },
        ),
        response: {
          201: Type.Object(
            { url: Type.String({ format: 'uri' }), expiresAt: instant() },
            { description: 'The link.' },
          ),
          ...problemResponses(
            'validation_failed',
            'unauthenticated',
            'insufficient_scope',
            'plan_upgrade_required',
            'not_found',
            'payload_too_large',
            'unsupported_media_type',
          ),
        },
      },
      handler: async (request, reply) => {
        const {
          aggregation,
          compression = 'none',
          expiresInSeconds = defaultExpirySeconds,
        } = request.body;
        const caller = callerOf(request);
        const keyId = caller.kind === 'api-key' ? caller.keyId : null;
        const issuedAt = now();
        const expiresAt = linkExpiry(caller, issuedAt, expiresInSeconds);
        const grant = { environmentId: environmentOf(request).id, aggregation, compression, keyId };
        const token = await linkTokens.sign(grant, issuedAt, expiresAt);
        const url = `${publicUrl ?? originOf(request)}/v1/downloads/${token}`;
        return reply.code(201).send({ url, expiresAt: expiresAt.toISOString() });
      },
    });

    app.route({
      method: ['GET', 'HEAD'],
      url: '/downloads/:token',
      // The link is the token: whoever has it may have the file.
      config: { access: 'public' },
      // A link is a secret: it stays out of the log.
      logLevel: 'warn',
      schema: {
        operationId: 'followDownloadLink',
        summary: 'Follow a download link',
        description: 'The file that the link was made for.',
        tags,
        security: [],
        params: Type.Object({
          token: Type.String({ maxLength: 1000, description: 'From `url` of a download link.' }),
        }),
        response: {
          200: fileResponse('text/csv', 'application/gzip'),
          ...problemResponses(
            'validation_failed',
            'unauthenticated',
            'insufficient_scope',
            'plan_upgrade_required',
            'too_many_downloads',
          ),
        },
      },
      handler: async (request, reply) => {
        const grant = await linkTokens.verify(request.params.token, now());
        const environment = grant === null ? null : await grantedEnvironment(db, grant, now());
        if (grant === null || environment === null) {
          await limits.countFailedLogin(request, null);
          throw unauthenticated(
            'The link is malformed, or it has expired, or its API key is gone.',
          );
        }
        requirePlan(environment, 'manual_export');
        const { aggregation } = grant;
        const packing =
          grant.compression === 'gzip'
            ? 'gzip-file'
            : acceptsGzip(request)
              ? 'content-encoding'
              : 'none';
        const environmentId = environment.id;
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

    done();
  };
}

/** A link outlives no access token: nothing else could end it when the user loses their rights. */
function linkExpiry(caller: Caller, issuedAt: Date, expiresInSeconds: number): Date {
  const wantedMs = issuedAt.getTime() + expiresInSeconds * 1000;
  const lastMs = caller.kind === 'user' ? Math.min(wantedMs, caller.expiresAt.getTime()) : wantedMs;
  // Tokens count whole seconds.
  return new Date(Math.floor(lastMs / 1000) * 1000);
}

/** The environment, if who made the link may still read it. @throws AppError `insufficient_scope` */
async function grantedEnvironment(
  db: Database,
  grant: LinkGrant,
  now: Date,
): Promise<Environment | null> {
  if (grant.keyId === null) return await findEnvironment(db, grant.environmentId);
  const apiKey = await findApiKey(db, grant.keyId, now);
  if (apiKey === null || apiKey.environment.id !== grant.environmentId) return null;
  requireScope(apiKey.scopes, 'exports:read');
  return apiKey.environment;
}

/** @throws AppError `validation_failed` where the caller named no host, as HTTP/1.0 allows */
function originOf(request: FastifyRequest): string {
  if (request.host === '') {
    throw new AppError('validation_failed', 'A link needs a host: send the Host header.', {
      members: { errors: [] },
    });
  }
  return `${request.protocol === 'https' ? 'https' : 'http'}://${request.host}`;
}
