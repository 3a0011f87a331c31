/** Requests generated from openapi.yaml. Most are well-formed with something wrong somewhere. */
import fc from 'fast-check';
import { bodyOf } from './arbitrary-bodies.ts';
import type { Operation } from './documented-answers.ts';
import { oddText } from './odd-values.ts';

/** Ids of existing objects by kind. Tests add the ids of objects that they create. */
export type World = Readonly<Record<string, readonly string[]>>;

/** Part of a path: an existing object by kind and index, or a text. */
type PathPart = { readonly kind: string; readonly index: number } | { readonly text: string };

export interface Attempt {
  readonly operation: Operation;
  readonly method: string;
  readonly parts: Readonly<Record<string, PathPart>>;
  readonly query: string;
  /** Name of the caller, a key of `tokens`. */
  readonly caller: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer | null;
  readonly isChunked: boolean;
}

/** Returns true if the path may match no route. */
export const hasOddPath = (attempt: Attempt): boolean =>
  Object.values(attempt.parts).some(part => 'text' in part);

export function arbitraryAttempt(
  operations: readonly Operation[],
  callers: readonly string[],
): fc.Arbitrary<Attempt> {
  return fc.constantFrom(...operations).chain(operation =>
    fc.record({
      operation: fc.constant(operation),
      method: operation.path.includes('exports/')
        ? fc.constantFrom('GET', 'HEAD')
        : fc.constant(operation.method),
      parts: pathParts(operation),
      query: query(operation),
      // The operator has the most rights. Its requests get furthest.
      caller: fc.oneof(
        { arbitrary: fc.constant('operator'), weight: 5 },
        { arbitrary: fc.constantFrom(...callers), weight: 4 },
      ),
      headers: extraHeaders(operation),
      body: bodyOf(operation),
      isChunked: fc.boolean(),
    }),
  );
}

/** Returns the bytes of the request. */
export function writeRequest(
  attempt: Attempt,
  world: World,
  tokens: Readonly<Record<string, string | null>>,
): Buffer {
  const path = attempt.operation.path.replace(/\{(\w+)\}/g, (_, name: string) => {
    const part = attempt.parts[name];
    if (part === undefined) return '';
    if ('text' in part) return part.text;
    const known = world[part.kind] ?? [];
    return known[part.index % known.length] ?? 'none';
  });
  const token = tokens[attempt.caller] ?? null;
  const lines = [
    `${attempt.method} ${path}${attempt.query} HTTP/1.1`,
    'host: 127.0.0.1',
    'connection: close',
    ...(token === null ? [] : [`authorization: Bearer ${token}`]),
    ...attempt.headers.map(([name, value]) => `${name}: ${value}`),
  ];
  if (attempt.body === null) return Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
  const framing = attempt.isChunked
    ? 'transfer-encoding: chunked'
    : `content-length: ${attempt.body.length}`;
  const head = Buffer.from(`${[...lines, framing].join('\r\n')}\r\n\r\n`, 'latin1');
  if (!attempt.isChunked) return Buffer.concat([head, attempt.body]);
  const size = Buffer.from(
    attempt.body.length === 0 ? '' : `${attempt.body.length.toString(16)};ext="x"\r\n`,
  );
  const end = Buffer.from(
    attempt.body.length === 0 ? '0\r\n\r\n' : '\r\n0\r\nx-trailer: 1\r\n\r\n',
  );
  return Buffer.concat([head, size, attempt.body, end]);
}

const oddPart = fc.oneof(
  oddText.map(text => encodeURIComponent(text.toWellFormed())),
  fc.constantFrom(
    '%',
    '%zz',
    '%c0%af',
    '%00',
    '%2e%2e',
    '..',
    '.',
    '%2f',
    'a%',
    '%ff',
    '%ed%a0%80',
    '*',
    ':x',
    '{x}',
  ),
  fc
    .constantFrom(63, 64, 65, 512, 1_000, 1_001, 1_199, 1_201, 9_000)
    .map(length => 'a'.repeat(length)),
);

const sparedKinds: Readonly<Record<string, string>> = {
  environmentId: 'spareEnvironmentId',
  configId: 'spareConfigId',
};

function pathParts(operation: Operation): fc.Arbitrary<Record<string, PathPart>> {
  const parts = operation.parameters
    .filter(parameter => parameter.in === 'path')
    .map(({ name }) => {
      // Other requests need the objects of the world, so only spare ones are changed or deleted.
      const isOnItself =
        operation.path.endsWith(`{${name}}`) && /^(PUT|DELETE)$/.test(operation.method);
      const kind = isOnItself && sparedKinds[name] !== undefined ? sparedKinds[name] : name;
      const known = fc.nat({ max: 1_000 }).map(index => ({ kind, index }));
      return [
        name,
        fc.oneof(
          { arbitrary: known, weight: 9 },
          { arbitrary: oddPart.map(text => ({ text })), weight: 1 },
        ),
      ] as const;
    });
  return fc.record(Object.fromEntries(parts));
}

function query(operation: Operation): fc.Arbitrary<string> {
  const names = operation.parameters
    .filter(parameter => parameter.in === 'query')
    .map(parameter => parameter.name);
  const value = fc.oneof(
    fc.constantFrom(
      '1',
      '2',
      '100',
      '101',
      '0',
      '-1',
      '1.5',
      '1e2',
      '0x10',
      '١',
      '',
      'true',
      '%zz',
      '%ff',
      '%00',
    ),
    fc
      .constantFrom<unknown>(
        [],
        ['2026-03-01'],
        ['0000-01-01'],
        ['', ''],
        [1, 2],
        ['2026-03-01T00:00:00.000Z', 'x'],
        ['0000-01-01T00:00:00.000Z', 'x'],
        ['+275760-09-13T00:00:00.000Z', 'x'],
        ['acme'],
        [{}],
        { length: 1 },
        ['a\u0000'],
      )
      .map(position => Buffer.from(JSON.stringify(position)).toString('base64url')),
    oddText.map(text => encodeURIComponent(text.toWellFormed())),
  );
  const name = fc.oneof(
    { arbitrary: fc.constantFrom(...(names.length === 0 ? ['limit'] : names)), weight: 5 },
    {
      arbitrary: fc.constantFrom(
        '__proto__',
        'limit[]',
        'limit.x',
        'constructor[prototype]',
        '',
        '%',
        '%00',
      ),
      weight: 1,
    },
  );
  const pairs = fc.array(
    fc.tuple(name, value).map(pair => pair.join('=')),
    { minLength: 1, maxLength: 3 },
  );
  return fc.oneof(
    { arbitrary: fc.constant(''), weight: names.length === 0 ? 8 : 2 },
    { arbitrary: pairs.map(found => `?${found.join('&')}`), weight: 3 },
    {
      arbitrary: fc.constantFrom('?', '?&&&', '?=', '??', `?${'a=1&'.repeat(2_000)}`, '#x'),
      weight: 1,
    },
  );
}

const extras = fc.oneof(
  fc.tuple(
    fc.constantFrom(
      'x-request-id',
      'accept-encoding',
      'accept',
      'range',
      'if-none-match',
      'cookie',
      'x-forwarded-for',
      'x-forwarded-host',
      'forwarded',
      'origin',
      'accept-version',
      'x-http-method-override',
      'te',
      'date',
    ),
    fc.oneof(
      fc.constantFrom(
        '',
        'gzip;q=0',
        'gzip;q=x',
        '*;q=0',
        'identity;q=0, *;q=0',
        'bytes=0-0',
        '*',
        'null',
        ',,,,',
        ';;;',
        '"',
        'DELETE',
        '1.x',
        'gzip, '.repeat(300),
        'a'.repeat(4_000),
      ),
      fc.string({ maxLength: 20 }).map(text =>
        Buffer.from(text)
          .toString('latin1')
          .replace(/[^\t\x20-\x7e\x80-\xff]/g, '?'),
      ),
    ),
  ),
  fc.constantFrom<readonly [string, string]>(
    ['authorization', 'Bearer x'],
    ['host', 'elsewhere.example'],
    ['connection', 'upgrade'],
    ['upgrade', 'websocket'],
    ['expect', '100-continue'],
    ['expect', 'something else'],
    ['content-type', 'application/json'],
  ),
);

function extraHeaders(operation: Operation): fc.Arbitrary<[string, string][]> {
  const isUpload = operation.method === 'PUT' && operation.path.endsWith('{date}');
  const usual = isUpload ? 'text/csv' : 'application/json';
  const contentType = fc.oneof(
    { arbitrary: fc.constant<[string, string][]>([['content-type', usual]]), weight: 12 },
    {
      arbitrary: fc
        .constantFrom(
          'text/csv',
          'application/json; charset=utf-16',
          'text/plain',
          'application/json, text/csv',
          'text/csv; header=absent',
          'application/problem+json',
          'multipart/form-data',
          'APPLICATION/JSON',
          ';',
          '',
          'x'.repeat(2_000),
          'application/json;__proto__=1',
        )
        .map(type => [['content-type', type]] as [string, string][]),
      weight: 2,
    },
    { arbitrary: fc.constant([]), weight: 1 },
  );
  const contentEncoding = fc.oneof(
    { arbitrary: fc.constant([]), weight: 8 },
    {
      arbitrary: fc
        .constantFrom('gzip', 'GZIP ', 'br', 'identity', 'gzip, gzip', '', 'x')
        .map(value => [['content-encoding', value]] as [string, string][]),
      weight: 1,
    },
  );
  const more = fc.oneof(
    { arbitrary: fc.constant([]), weight: 3 },
    { arbitrary: fc.array(extras, { maxLength: 3 }), weight: 2 },
  );
  return fc
    .tuple(contentType, contentEncoding, more)
    .map(found => found.flat() as [string, string][]);
}
