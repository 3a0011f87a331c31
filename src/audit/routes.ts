import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { Database } from '../db/database.ts';
import { isInstantPart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses } from '../http/problem.ts';
import { instant, literals, nullable } from '../http/schemas.ts';
import { type AuditEntry, actorKinds, auditActions, listAuditLog } from './audit-log-repository.ts';

const actionSchema = literals(auditActions, { title: 'AuditAction' });

const entrySchema = Type.Object(
  {
    id: Type.String({ examples: ['1042'] }),
    at: instant(),
    actor: Type.Object(
      {
        kind: literals(actorKinds),
        id: nullable(
          Type.String({
            description:
              'Id of the API key or user, or name of the job for `system`; null for the operator.',
          }),
        ),
      },
      { title: 'Actor' },
    ),
    environmentId: nullable(
      Type.String({
        description:
          'Null if the change concerns no single environment. It may have been deleted since.',
      }),
    ),
    action: actionSchema,
    targetId: nullable(
      Type.String({
        description:
          'Id of the changed object; for a snapshot the date. It may have been deleted since.',
      }),
    ),
    details: Type.Record(Type.String(), Type.Unknown(), {
      description:
        'Names of fields, and values such as plan, scopes or destination. Never a secret.',
    }),
    requestId: nullable(
      Type.String({
        description:
          'Id that the service gave to the request, as in its log and in the `x-request-id` of the ' +
          'answer; null if no request asked for the change.',
      }),
    ),
    callerRequestId: nullable(
      Type.String({
        description: 'Id that the caller sent as `x-request-id`; null if none. Not unique.',
      }),
    ),
  },
  { title: 'AuditLogEntry', description: 'Line of the audit log.' },
);

const isSequencePart = (part: string): boolean => /^\d{1,15}$/.test(part);

export function auditRoutes({ db }: { db: Database }): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    app.get('/audit-log', {
      config: { access: 'operator' },
      schema: {
        operationId: 'listAuditLog',
        summary: 'List the audit log',
        description: 'Returns changes and downloads with actor and time, newest first.',
        tags: ['Audit log'],
        querystring: Type.Object({
          ...pageQuery.properties,
          environmentId: Type.Optional(
            Type.String({
              pattern: '^[A-Za-z0-9_-]{1,64}$',
              description: 'Only changes of this environment, also after its deletion.',
            }),
          ),
          action: Type.Optional(actionSchema),
        }),
        response: {
          200: pageOf(entrySchema, 'A page of the audit log.'),
          ...problemResponses('validation_failed', 'unauthenticated', 'insufficient_scope'),
        },
      },
      handler: async request => {
        const { environmentId = null, action = null } = request.query;
        return await readPage(
          request.query,
          {
            position: (entry: AuditEntry) => [entry.at, entry.id],
            parts: [isInstantPart, isSequencePart],
          },
          ({ after, limit }) =>
            listAuditLog(
              db,
              { environmentId, action },
              { before: after && { at: new Date(after[0] ?? ''), id: Number(after[1]) }, limit },
            ),
        );
      },
    });

    done();
  };
}
