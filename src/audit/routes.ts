import { type FastifyPluginCallbackTypebox, Type } from '@fastify/type-provider-typebox';
import type { Database } from '../db/database.ts';
import { isInstantPart, pageOf, pageQuery, readPage } from '../http/pagination.ts';
import { problemResponses } from '../http/problem.ts';
import { instant, literals, nullable } from '../http/schemas.ts';
import { type AuditEntry, actorKinds, auditActions, listAuditLog } from './audit-log.ts';

const entrySchema = Type.Object(
  {
    id: Type.String({ examples: ['1042'] }),
    at: instant(),
    actor: Type.Object({
      kind: literals(actorKinds),
      id: nullable(
        Type.String({
          description:
            'Of the API key or the user; the name of the job for `system`; null for the operator.',
        }),
      ),
    }),
    environmentId: nullable(
      Type.String({
        description: 'Null for what concerns no single environment. It may be gone by now.',
      }),
    ),
    action: literals(auditActions),
    targetId: nullable(
      Type.String({
        description: 'Of what was changed; for a snapshot its date. It may be gone by now.',
      }),
    ),
    details: Type.Record(Type.String(), Type.Unknown(), {
      description: 'Names of fields, and values such as plan or scopes. Never a secret.',
    }),
    requestId: nullable(
      Type.String({
        description: 'As in the log and in `x-request-id`; null for what no request asked for.',
      }),
    ),
  },
  { description: 'One change.' },
);

const isSequencePart = (part: string): boolean => /^\d{1,15}$/.test(part);

export function auditRoutes({ db }: { db: Database }): FastifyPluginCallbackTypebox {
  return (app, _options, done) => {
    app.get('/audit-log', {
      config: { access: 'operator' },
      schema: {
        operationId: 'listAuditLog',
        summary: 'Who changed what, when',
        description:
          'Newest first. A line is written with the change that it tells of: there is never one without the other.',
        tags: ['Audit log'],
        querystring: Type.Object({
          ...pageQuery.properties,
          environmentId: Type.Optional(
            Type.String({
              pattern: '^[A-Za-z0-9_-]{1,64}$',
              description: 'What concerns this environment alone, also after its end.',
            }),
          ),
          action: Type.Optional(literals(auditActions)),
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
