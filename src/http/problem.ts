import { type TSchema, Type } from '@fastify/type-provider-typebox';
import { type ErrorCode, errorStatus } from '../errors.ts';

const titles: Readonly<Record<ErrorCode, string>> = {
  validation_failed: 'The request does not fit the schema',
  unauthenticated: 'A valid bearer token is needed',
  insufficient_scope: 'The API key lacks the scope',
  plan_upgrade_required: 'The plan does not include this feature',
  not_found: 'Not found',
  conflict: 'Conflict with what is under way',
  payload_too_large: 'The body is too large',
  unsupported_media_type: 'The media type is not supported',
  snapshot_invalid: 'The snapshot has rows at fault',
  storage_validation_failed: 'The bucket check failed',
  rate_limited: 'Too many requests',
  too_many_downloads: 'Too many downloads at once',
  internal_error: 'Internal error',
  unavailable: 'The service is unavailable for the moment',
};

export const problemMediaType = 'application/problem+json; charset=utf-8';

/** An RFC 9457 problem; `members` are what the code adds. */
export function toProblem(
  code: ErrorCode,
  detail: string,
  requestId: string,
  members: Readonly<Record<string, unknown>> = {},
): Record<string, unknown> {
  return {
    type: `urn:warehouse-export:problem:${code}`,
    title: titles[code],
    status: errorStatus[code],
    detail,
    code,
    requestId,
    ...members,
  };
}

const problemMembers = {
  type: Type.String({ description: 'A URI that names the kind of problem.' }),
  title: Type.String(),
  status: Type.Integer(),
  detail: Type.String({ description: 'What went wrong here, for a person.' }),
  code: Type.String({ description: 'Stable and machine-readable.' }),
  requestId: Type.String({ description: 'Name it when you ask for help.' }),
};

const fieldFaults = Type.Array(Type.Object({ path: Type.String(), message: Type.String() }), {
  description: 'The fields at fault, as JSON pointers.',
});

/** Members that some codes add. */
const extraMembers: Partial<Record<ErrorCode, Record<string, TSchema>>> = {
  validation_failed: { errors: fieldFaults },
  plan_upgrade_required: { currentPlan: Type.String(), requiredPlan: Type.String() },
  snapshot_invalid: {
    errors: Type.Array(
      Type.Object({
        row: Type.Integer({ description: '1 is the first row after the header, 0 the header.' }),
        column: Type.Union([Type.String(), Type.Null()]),
        message: Type.String(),
      }),
      { description: 'The first 20 faults.' },
    ),
    errorCount: Type.Integer({ description: 'How many faults there are in all.' }),
  },
  storage_validation_failed: {
    storageError: Type.Object({ code: Type.String(), message: Type.String(), hint: Type.String() }),
    checks: Type.Optional(
      Type.Array(
        Type.Object({
          name: Type.String(),
          ok: Type.Boolean(),
          error: Type.Union([
            Type.Object({ code: Type.String(), message: Type.String(), hint: Type.String() }),
            Type.Null(),
          ]),
        }),
      ),
    ),
  },
};

const everyRoute: readonly ErrorCode[] = ['internal_error', 'unavailable'];

/**
 * The problem answers of a route, for its `response` schema: those it names and those that any route may give.
 * Codes that share a status become one description of that status.
 */
export function problemResponses(...codes: readonly ErrorCode[]): Record<number, TSchema> {
  const byStatus = Map.groupBy([...codes, ...everyRoute], code => errorStatus[code]);
  const responses: Record<number, TSchema> = {};
  for (const [status, sharing] of byStatus) {
    const extra = Object.assign({}, ...sharing.map(code => extraMembers[code] ?? {})) as Record<
      string,
      TSchema
    >;
    const optional = Object.fromEntries(
      Object.entries(extra).map(([name, schema]) => [name, Type.Optional(schema)]),
    );
    responses[status] = {
      description: sharing.map(code => `\`${code}\`: ${titles[code]}.`).join(' '),
      ...(status === 429 || status === 503
        ? { headers: { 'retry-after': Type.Integer({ description: 'Seconds to wait.' }) } }
        : {}),
      ...(status === 401 ? { headers: { 'www-authenticate': Type.String() } } : {}),
      content: {
        'application/problem+json': { schema: Type.Object({ ...problemMembers, ...optional }) },
      },
    } as unknown as TSchema;
  }
  return responses;
}
