import type {
  DestinationCheck,
  FieldError,
  Plan,
  Problem,
  ProblemCode,
  RowError,
  StorageError,
} from './generated/types.gen.ts';

/** Members that a problem of this code has in addition to the common ones. */
interface ProblemMembers {
  validation_failed: { readonly errors?: readonly FieldError[] };
  snapshot_invalid: { readonly errors: readonly RowError[]; readonly errorCount: number };
  plan_upgrade_required: { readonly currentPlan: Plan; readonly requiredPlan: Plan };
  storage_validation_failed: {
    readonly storageError: StorageError;
    readonly checks?: readonly DestinationCheck[];
  };
}

interface CommonMembers {
  /** Description for a person. */
  readonly detail: string;
  /** Id of the request, for the operator. Null if the service did not answer. */
  readonly requestId: string | null;
  /** HTTP status. Null if the service did not answer. */
  readonly status: number | null;
}

type ServiceProblem = {
  [Code in ProblemCode]: CommonMembers & {
    readonly code: Code;
  } & (Code extends keyof ProblemMembers ? ProblemMembers[Code] : unknown);
}[ProblemCode];

/** Problem that the client found. The service did not report it. */
interface ClientProblem extends CommonMembers {
  /**
   * - `no_answer`: the connection failed, or the browser does not let the page read the answer.
   * - `unexpected_answer`: the answer is not from this service, for example from a proxy.
   * - `incomplete_download`: the connection broke too often, or bytes or rows are missing.
   * - `export_changed`: the file was replaced while it was downloaded.
   */
  readonly code: 'no_answer' | 'unexpected_answer' | 'incomplete_download' | 'export_changed';
}

/** Discriminated union: `code` decides which other members exist. */
export type ApiProblem = ServiceProblem | ClientProblem;

/** Error of a request. Decide by `problem.code`, show `problem.detail`. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly problem: ApiProblem;
  /** Value of `Retry-After` in seconds, else null. */
  readonly retryAfterSeconds: number | null;

  constructor(
    message: string,
    problem: ApiProblem,
    options: ErrorOptions & { retryAfterSeconds?: number | null } = {},
  ) {
    super(message, options);
    this.problem = problem;
    this.retryAfterSeconds = options.retryAfterSeconds ?? null;
  }
}

/** Method and URL, for messages. */
interface RequestLine {
  readonly method: string;
  readonly url: string;
}

/** Returns the error of an answer that is not successful. `body` is text or parsed JSON. */
export function errorOfAnswer(request: RequestLine, answer: Response, body: unknown): ApiError {
  const problem = toProblem(answer, body);
  const retryAfter = Number(answer.headers.get('retry-after') ?? Number.NaN);
  const parts = [
    `${describe(request)}: ${answer.status} ${problem.code}`,
    problem.detail.replace(/\.$/, ''),
  ];
  return new ApiError(parts.filter(part => part !== '').join('. '), problem, {
    retryAfterSeconds: Number.isFinite(retryAfter) ? retryAfter : null,
  });
}

/** Returns the error of a request without an answer. */
export function errorWithoutAnswer(request: RequestLine, cause: unknown): ApiError {
  const { origin } = new URL(request.url);
  const detail = `${origin} does not answer (${reasonOf(cause)})${corsHint(origin)}`;
  return clientError('no_answer', detail, { cause, request });
}

/** Browsers hide why a page may not read an answer. Returns the most common reason. */
function corsHint(origin: string): string {
  const page = (globalThis as { location?: { origin: string } }).location?.origin;
  if (page === undefined || page === origin) return '';
  return `, or it refuses this page: CORS_ORIGINS must contain ${page}`;
}

export function clientError(
  code: ClientProblem['code'],
  detail: string,
  { request, cause }: { request?: RequestLine; cause?: unknown } = {},
): ApiError {
  const message = request === undefined ? detail : `${describe(request)}: ${detail}`;
  return new ApiError(message, { code, detail, requestId: null, status: null }, { cause });
}

function toProblem(answer: Response, body: unknown): ApiProblem {
  const { status } = answer;
  if (typeof body === 'object' && body !== null && 'code' in body && 'detail' in body) {
    return { ...(body as Problem), status } as ApiProblem;
  }
  const detail = typeof body === 'string' ? body.slice(0, 200) : '';
  return { code: 'unexpected_answer', detail, requestId: null, status };
}

/** Returns method and path. The token of a download link is left out. */
function describe({ method, url }: RequestLine): string {
  return `${method} ${new URL(url).pathname.replace(/(\/downloads\/).+/, '$1…')}`;
}

/** Returns the innermost message: fetch reports every failure as "fetch failed". */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  if (error instanceof Error && error.cause instanceof Error) return reasonOf(error.cause);
  return error instanceof Error ? error.message : String(error);
}
