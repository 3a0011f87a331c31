import { isDeepStrictEqual } from 'node:util';

type Json = Readonly<Record<string, unknown>>;

/** Keywords that may differ between two uses of one named schema. */
const annotations = ['description', 'default', 'example', 'examples'] as const;

/** Statuses that answer only requests with `Range`. */
const rangeStatuses: readonly string[] = ['206', '416'];

/**
 * Moves schemas with a `title` to `components/schemas` and named problem answers to
 * `components/responses`, so that generated clients have named types. Only the document changes:
 * routes validate and serialise with their own schemas.
 *
 * Also shows schemas as their `x-document` says, and completes request bodies by `x-request-body`.
 * Gives HEAD a unique operation id, and no answers to `Range`, which applies only to GET.
 *
 * @throws Error if two different schemas have one name
 */
export function nameComponents(document: object): object {
  const schemas = new Components('schemas', schema => withoutAnnotations(schema));
  const responses = new Components('responses', response => response);

  const hoist = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(hoist);
    if (!isObject(value)) return value;
    const { 'x-document': shown, 'x-response-name': name, ...own } = value;
    if (shown !== undefined) return hoist(shown);
    const inner = mapValues(own, (item, key) => (isValue(key) ? item : hoist(item)));
    const { title } = own;
    return typeof title === 'string' ? refer(schemas.add(title, inner), inner) : inner;
  };

  /** Keeps annotations that this use does not share with the component. */
  const refer = ({ $ref, component }: Added, schema: Json): Json => ({
    $ref,
    ...Object.fromEntries(
      annotations
        .filter(name => name in schema && !isDeepStrictEqual(schema[name], component[name]))
        .map(name => [name, schema[name]]),
    ),
  });

  const nameResponse = (response: unknown): unknown => {
    const { content } = response as { content?: Record<string, Json> };
    const name = content?.['application/problem+json']?.['x-response-name'];
    const inner = hoist(response) as Json;
    return typeof name === 'string' ? { $ref: responses.add(name, inner).$ref } : inner;
  };

  const nameOperation = (operation: unknown, method: string): unknown => {
    const { 'x-request-body': body, ...own } = operation as Json;
    const { operationId, responses: answers, requestBody } = own;
    return {
      ...(hoist({ ...own, responses: undefined }) as Json),
      ...(typeof operationId === 'string' && {
        operationId: method === 'head' ? `head${capitalized(operationId)}` : operationId,
      }),
      ...((body ?? requestBody) !== undefined && {
        requestBody: hoist({ ...(requestBody as Json | undefined), ...(body as Json | undefined) }),
      }),
      responses: mapValues(
        Object.fromEntries(
          Object.entries(answers as Json).filter(
            ([status]) => method !== 'head' || !rangeStatuses.includes(status),
          ),
        ),
        nameResponse,
      ),
    };
  };

  const { components, paths, webhooks = {} } = document as Document;
  const operationsOf = (path: unknown) => mapValues(path as Json, nameOperation);
  const named = {
    paths: mapValues(paths, operationsOf),
    webhooks: mapValues(webhooks, operationsOf),
  };
  // Last, so that a component has the description of its main use.
  const known = mapValues(components.schemas, hoist);
  return {
    ...document,
    ...named,
    components: {
      ...components,
      schemas: sorted({ ...known, ...schemas.all() }),
      responses: sorted(responses.all()),
    },
  };
}

interface Document {
  readonly components: Json & { readonly schemas: Json };
  readonly paths: Json;
  readonly webhooks?: Json;
}

interface Added {
  readonly $ref: string;
  readonly component: Json;
}

/** Components of one kind by name. */
class Components {
  readonly #kind: string;
  readonly #comparable: (component: Json) => Json;
  readonly #byName = new Map<string, Json>();

  constructor(kind: string, comparable: (component: Json) => Json) {
    this.#kind = kind;
    this.#comparable = comparable;
  }

  /** @throws Error if another component has this name */
  add(name: string, component: Json): Added {
    const known = this.#byName.get(name) ?? component;
    if (!isDeepStrictEqual(this.#comparable(known), this.#comparable(component))) {
      throw new Error(`Two different components are named ${name} in ${this.#kind}.`);
    }
    this.#byName.set(name, known);
    return { $ref: `#/components/${this.#kind}/${name}`, component: known };
  }

  all(): Json {
    return Object.fromEntries(this.#byName);
  }
}

function withoutAnnotations(schema: Json): Json {
  const isAnnotation = (key: string) => annotations.some(name => name === key);
  return Object.fromEntries(Object.entries(schema).filter(([key]) => !isAnnotation(key)));
}

/** True for keywords whose value is data, not a schema. */
function isValue(keyword: string): boolean {
  return ['const', 'default', 'enum', 'example', 'examples'].includes(keyword);
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null;
}

function mapValues(object: Json, map: (value: unknown, key: string) => unknown): Json {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, map(value, key)]));
}

function sorted(object: Json): Json {
  return Object.fromEntries(Object.entries(object).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
