import { type TSchema, Type } from '@fastify/type-provider-typebox';
import { type ErrorCode, errorStatus } from '../shared/errors.ts';
import { literals } from './schemas.ts';

const titles: Readonly<Record<ErrorCode, string>> = {
  validation_failed: 'The request is not valid',
  digest_mismatch: 'The body does not match its digest',
  unauthenticated: 'A valid bearer token is required',
  insufficient_scope: 'The token lacks the scope',
  plan_upgrade_required: 'The plan does not include this feature',
  not_found: 'Not found',
  method_not_allowed: 'The path has other methods',
  request_timeout: 'The body took too long',
  conflict: 'Conflict with the current state',
  precondition_failed: 'The file does not match the precondition',
  payload_too_large: 'The body is too large',
  unsupported_media_type: 'The media type is not supported',
  range_not_satisfiable: 'The range starts beyond the end of the file',
  snapshot_invalid: 'The snapshot has invalid rows',
  storage_validation_failed: 'The bucket check failed',
  rate_limited: 'Too many requests',
  too_many_downloads: 'Too many downloads at once',
  internal_error: 'Internal error',
  unavailable: 'The service is temporarily unavailable',
};

export const problemMediaType = 'application/problem+json; charset=utf-8';

/** Returns an RFC 9457 problem. `members` are the additional members of the code. */
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

const fieldError = Type.Object(
  {
    path: Type.String({
      description:
        'JSON pointer to an invalid field of the body. `/query/…`, `/path/…` and `/headers/…` are ' +
        'other parts of the request.',
      examples: ['/schedule', '/query/asOf'],
    }),
    message: Type.String({ examples: ['must be one of daily, weekly'] }),
  },
  { title: 'FieldError' },
);

const rowError = Type.Object(
  {
    row: Type.Integer({
      description: '1 is the first row after the header. 0 is the header or the whole body.',
    }),
    column: Type.Unsafe<string | null>({
      type: ['string', 'null'],
      description: 'Null if the error concerns no single column.',
    }),
    message: Type.String({ examples: ['is not a whole number from 1 to 4'] }),
  },
  { title: 'RowError' },
);

/**
 * Returns the schema of a problem, registered once so that the document contains it once.
 * @param members schemas of members that codes of other folders add
 */
export function problemSchema(members: Readonly<Record<string, TSchema>>) {
  return Type.Object(
    {
      type: Type.String({ description: 'URI that names the kind of problem.' }),
      title: Type.String(),
      status: Type.Integer(),
      detail: Type.String({ description: 'Description of the error for a person.' }),
      code: literals(Object.keys(errorStatus), {
        title: 'ProblemCode',
        description: 'Stable and machine-readable.',
      }),
      requestId: Type.String({
        description: 'Id that the service gave to the request. Name it in support requests.',
      }),
      errors: Type.Optional(
        Type.Array(Type.Union([fieldError, rowError]), {
          description:
            '`validation_failed`: the invalid fields. `snapshot_invalid`: the first 20 errors.',
        }),
      ),
      errorCount: Type.Optional(
        Type.Integer({
          description:
            '`snapshot_invalid`: total number of errors. Of repeated keys it has only the first, and ' +
            'none after the first invalid field.',
        }),
      ),
      ...Type.Partial(Type.Object(members)).properties,
    },
    { $id: 'Problem', description: 'An RFC 9457 problem.' },
  );
}

const everyRoute: readonly ErrorCode[] = ['internal_error', 'unavailable'];

const retryAfter = { 'retry-after': Type.Integer({ description: 'Seconds to wait.' }) };
const headersByStatus: Readonly<Record<number, Record<string, TSchema>>> = {
  401: { 'www-authenticate': Type.String({ examples: ['Bearer'] }) },
  409: { 'retry-after': Type.Integer({ description: 'Seconds to wait, where waiting helps.' }) },
  416: { 'content-range': Type.String({ examples: ['bytes */1205850224'] }) },
  429: retryAfter,
  503: retryAfter,
};

/** Problems of a route of an environment that reads. */
export const readProblems = [
  'validation_failed',
  'unauthenticated',
  'insufficient_scope',
  'not_found',
] as const;

/** Problems of a route of an environment that changes something. A caller may send a body. */
export const writeProblems = [
  ...readProblems,
  'payload_too_large',
  'unsupported_media_type',
] as const;

/**
 * Returns the problem responses for the `response` schema of a route: the given codes, and codes
 * that every route may return. Codes with the same status share one description.
 */
export function problemResponses(...codes: readonly ErrorCode[]): Record<number, TSchema> {
  // Routes that require a token are rate-limited.
  const limited: readonly ErrorCode[] = codes.includes('unauthenticated') ? ['rate_limited'] : [];
  const all = new Set([...codes, ...limited, ...everyRoute]);
  const byStatus = Map.groupBy(all, code => errorStatus[code]);
  return Object.fromEntries(
    [...byStatus].map(([status, sharing]) => [
      status,
      {
        description: sharing.map(code => `\`${code}\`: ${titles[code]}.`).join(' '),
        ...(headersByStatus[status] === undefined ? {} : { headers: headersByStatus[status] }),
        content: {
          'application/problem+json': {
            schema: { $ref: 'Problem#' },
            'x-response-name': sharing.map(pascalCase).join('Or'),
          },
        },
      },
    ]),
  );
}

function pascalCase(code: string): string {
  return code.replace(/(?:^|_)(.)/g, (_, letter: string) => letter.toUpperCase());
}
