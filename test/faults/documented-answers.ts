import type { FastifyInstance } from 'fastify';
import { Compile } from 'typebox/schema';
import type { RawAnswer } from './raw-exchange.ts';

type Json = Readonly<Record<string, unknown>>;
type Validator = ReturnType<typeof Compile>;

/** Operation in openapi.yaml. */
export interface Operation {
  readonly method: string;
  /** Path template, such as `/v1/environments/{environmentId}`. */
  readonly path: string;
  readonly parameters: readonly {
    readonly in: string;
    readonly name: string;
    readonly schema: Json;
  }[];
  /** Schema of the JSON body. Null if the operation documents none. */
  readonly body: Json | null;
}

/**
 * Operations in the OpenAPI document that the app serves, and a check of its answers against them.
 */
export interface Documented {
  readonly operations: readonly Operation[];
  /** Describes how an answer of this operation differs from the document, or returns null. */
  faultOf(operation: Operation, method: string, answer: RawAnswer): string | null;
}

interface Response {
  readonly content: ReadonlyMap<string, Validator>;
  readonly headers: ReadonlyMap<string, Json>;
}

export function readDocument(app: FastifyInstance): Documented {
  const document = app.swagger() as unknown as {
    paths: Record<string, Record<string, Json>>;
    components: { schemas: Json; responses: Readonly<Record<string, DescribedResponse>> };
  };
  const resolve = (schema: unknown) => strict(schema, document.components.schemas) as Json;
  const operations: Operation[] = [];
  const responses = new Map<Operation, Map<number, Response>>();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, described] of Object.entries(methods)) {
      const {
        parameters,
        requestBody,
        responses: answers,
      } = described as unknown as DescribedOperation;
      const operation: Operation = {
        method: method.toUpperCase(),
        path,
        parameters: (parameters ?? []).map(parameter => ({
          ...parameter,
          schema: resolve(parameter.schema),
        })),
        body:
          requestBody?.content['application/json'] === undefined
            ? null
            : resolve(requestBody.content['application/json'].schema),
      };
      operations.push(operation);
      const byStatus = Object.entries(answers).map(([status, answer]) => {
        const { content = {}, headers = {} } = isReference(answer)
          ? (document.components.responses[answer.$ref.replace('#/components/responses/', '')] ??
            {})
          : answer;
        const validators = Object.entries(content).map(
          ([type, { schema }]) => [type, Compile(resolve(schema))] as const,
        );
        const headerSchemas = Object.entries(headers).map(
          ([name, { schema }]) => [name, schema] as const,
        );
        return [
          Number(status),
          { content: new Map(validators), headers: new Map(headerSchemas) },
        ] as const;
      });
      responses.set(operation, new Map(byStatus));
    }
  }
  return {
    operations,
    faultOf: (operation, method, answer) =>
      faultOf(responses.get(operation)?.get(answer.status), method, answer),
  };
}

interface DescribedOperation {
  readonly parameters?: readonly {
    readonly in: string;
    readonly name: string;
    readonly schema: Json;
  }[];
  readonly requestBody?: { readonly content: Record<string, { readonly schema: unknown }> };
  readonly responses: Readonly<Record<string, DescribedResponse | Reference>>;
}

interface DescribedResponse {
  readonly content?: Record<string, { readonly schema: unknown }>;
  readonly headers?: Record<string, { readonly schema: Json }>;
}

interface Reference {
  readonly $ref: string;
}

function isReference(answer: DescribedResponse | Reference): answer is Reference {
  return '$ref' in answer;
}

/** Returns the schema with resolved references. Objects allow documented properties only. */
function strict(schema: unknown, definitions: Json): unknown {
  if (Array.isArray(schema)) return schema.map(item => strict(item, definitions));
  if (typeof schema !== 'object' || schema === null) return schema;
  const { $ref, ...rest } = schema as Json;
  if (typeof $ref === 'string')
    return strict(definitions[$ref.replace('#/components/schemas/', '')], definitions);
  const inner = Object.fromEntries(
    Object.entries(rest).map(([key, value]) => [key, strict(value, definitions)]),
  );
  return inner['type'] === 'object' ? { additionalProperties: false, ...inner } : inner;
}

/** Headers that are required for a status. */
const neededHeaders: Readonly<Record<number, string>> = {
  401: 'www-authenticate',
  429: 'retry-after',
  503: 'retry-after',
};

/** Media types whose bodies are no text. */
const binaryTypes = ['application/gzip', 'application/vnd.apache.parquet'];

function faultOf(response: Response | undefined, method: string, answer: RawAnswer): string | null {
  const { status, headers, body } = answer;
  if (status >= 500) return `${status} is an internal error`;
  if (response === undefined) return `${status} is not documented`;
  if (!/^[\w.:-]{1,64}$/.test(headers['x-request-id'] ?? '')) return 'has no request id';
  const needed = neededHeaders[status];
  if (needed !== undefined && headers[needed] === undefined) return `${status} without ${needed}`;
  const mediaType = (headers['content-type'] ?? '').split(';')[0] ?? '';
  if (response.content.size === 0) return body.length === 0 ? null : `has an undocumented body`;
  const validator = response.content.get(mediaType);
  if (validator === undefined) return `${status} has the undocumented media type "${mediaType}"`;
  if (method === 'HEAD') return body.length === 0 ? null : 'HEAD has a body';
  if (headers['content-encoding'] !== undefined || binaryTypes.includes(mediaType)) return null;
  const text = body.toString();
  if (!Buffer.from(text).equals(body)) return 'is not UTF-8';
  const isJson = /[/+]json$/.test(mediaType);
  const value: unknown = isJson ? JSON.parse(text) : text;
  const [, errors] = validator.Errors(value);
  if (errors.length > 0) return `does not match the schema: ${JSON.stringify(errors)}`;
  if (mediaType !== 'application/problem+json') return null;
  const problem = value as { status: number; requestId: string; code: string; type: string };
  if (problem.status !== status) return 'has a different status in the body';
  if (problem.requestId !== headers['x-request-id'])
    return 'has a different request id in the body';
  if (problem.type !== `urn:warehouse-export:problem:${problem.code}`)
    return 'has the problem type of another code';
  return insideOf(text);
}

/** Returns a message if the text contains internals such as a stack trace or a table name. */
function insideOf(text: string): string | null {
  const [found] =
    /\\n +at |node_modules|\.ts:\d|\bpg_\w+|\bSQLSTATE\b|ECONNREFUSED|whx_test_/.exec(text) ?? [];
  return found === undefined ? null : `reveals internals: ${found}`;
}
