/** Requests grown from the document: mostly of the right shape, with something wrong somewhere. */
import fc from 'fast-check';
import { isPublicAddress } from '../../src/destinations/endpoint-allowlist.ts';
import { parseDestination } from '../../src/destinations/location.ts';
import type { Operation } from './documented-answers.ts';
import { objectText, oddBytes, oddKey, oddText, oddValue } from './odd-values.ts';

type Json = Readonly<Record<string, unknown>>;

/** What is there to be named, by kind; tests add to it as things are made. */
export type World = Readonly<Record<string, readonly string[]>>;

/** A part of a path: something of the world by its kind and number, or a text. */
type PathPart = { readonly kind: string; readonly index: number } | { readonly text: string };

export interface Attempt {
  readonly operation: Operation;
  readonly method: string;
  readonly parts: Readonly<Record<string, PathPart>>;
  readonly query: string;
  /** Who calls, by name. */
  readonly caller: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer | null;
  readonly isChunked: boolean;
}

/** Whether the path may lead nowhere. */
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
      // The operator may do the most, and so gets the furthest.
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

/** The bytes of it. */
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
  const framing = attempt.isChunked ? 'transfer-encoding: chunked' : `content-length: ${attempt.body.length}`;
  const head = Buffer.from(`${[...lines, framing].join('\r\n')}\r\n\r\n`, 'latin1');
  if (!attempt.isChunked) return Buffer.concat([head, attempt.body]);
  const size = Buffer.from(
    attempt.body.length === 0 ? '' : `${attempt.body.length.toString(16)};ext="x"\r\n`,
  );
  const end = Buffer.from(attempt.body.length === 0 ? '0\r\n\r\n' : '\r\n0\r\nx-trailer: 1\r\n\r\n');
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
  fc.constantFrom(63, 64, 65, 512, 1_000, 1_001, 1_199, 1_201, 9_000).map(length => 'a'.repeat(length)),
);

function pathParts(operation: Operation): fc.Arbitrary<Record<string, PathPart>> {
  const parts = operation.parameters
    .filter(parameter => parameter.in === 'path')
    .map(({ name }) => {
      // What the others need stays there: only spare environments are changed or removed.
      const isOnItself = operation.path.endsWith('{environmentId}') && operation.method !== 'GET';
      const kind = name === 'environmentId' && isOnItself ? 'spareEnvironmentId' : name;
      const known = fc.nat({ max: 1_000 }).map(index => ({ kind, index }));
      return [
        name,
        fc.oneof({ arbitrary: known, weight: 9 }, { arbitrary: oddPart.map(text => ({ text })), weight: 1 }),
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
      arbitrary: fc.constantFrom('__proto__', 'limit[]', 'limit.x', 'constructor[prototype]', '', '%', '%00'),
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
    { arbitrary: fc.constantFrom('?', '?&&&', '?=', '??', `?${'a=1&'.repeat(2_000)}`, '#x'), weight: 1 },
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
  return fc.tuple(contentType, contentEncoding, more).map(found => found.flat() as [string, string][]);
}

const csvHeader =
  'Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,STARS State,Frequency,Satisfaction,Feedback Count,Segment Names,Segment IDs\n';
const csvBody = fc.oneof(
  fc.constantFrom(
    csvHeader,
    '',
    `${csvHeader}c1,,f1,F,2026-01-01,2026-01-01,,,1,0,,0,,\n`,
    csvHeader.repeat(2),
    '"',
    ',',
    '\n\n',
    '\u0000',
  ),
  oddText.map(text => csvHeader + text),
);

/** Mostly a body of the document's shape in which one thing or nothing is odd. */
function bodyOf(operation: Operation): fc.Arbitrary<Buffer | null> {
  if (operation.method === 'PUT' && operation.path.endsWith('{date}'))
    return csvBody.map(text => Buffer.from(text));
  const anything = fc.oneof(
    oddValue.map(value => Buffer.from(JSON.stringify(value))),
    oddBytes.map(make => make('{"a":1}')),
  );
  if (operation.body === null) {
    return fc.oneof({ arbitrary: fc.constant(null), weight: 5 }, { arbitrary: anything, weight: 1 });
  }
  const any = fitting(operation.body) as fc.Arbitrary<Record<string, unknown>>;
  const isConfig = 'provider' in (operation.body['properties'] as Json);
  const good = isConfig ? fc.oneof(any, any.map(ofOneProvider), any.map(ofOneProvider)) : any;
  const oneOdd = fc.tuple(good, fc.nat(), oddValue).map(([body, at, value]) => {
    const entries = Object.entries(body);
    const place = at % Math.max(entries.length, 1);
    return entries.map(([key, kept], index) => [key, index === place ? value : kept] as const);
  });
  const oneMore = fc
    .tuple(good, oddKey, oddValue)
    .map(([body, key, value]) => [...Object.entries(body), [key, value] as const]);
  const oneLess = fc
    .tuple(good, fc.nat())
    .map(([body, at]) => Object.entries(body).filter((_, index) => index !== at % 4));
  const entries = fc.oneof(
    { arbitrary: good.map(body => Object.entries(body) as (readonly [string, unknown])[]), weight: 8 },
    { arbitrary: oneOdd, weight: 6 },
    { arbitrary: oneMore, weight: 3 },
    { arbitrary: oneLess, weight: 2 },
  );
  const text = entries.map(found => objectText(staysOnLoopback(found)));
  return fc.oneof(
    { arbitrary: text.map(found => Buffer.from(found)), weight: 8 },
    { arbitrary: fc.tuple(text, oddBytes).map(([found, make]) => make(found)), weight: 2 },
    { arbitrary: anything, weight: 1 },
    { arbitrary: fc.constant(null), weight: 1 },
  );
}

/** Provider and fields that go with each other, which chance alone would hardly bring together. */
function ofOneProvider({ bucketUrl: _, ...body }: Record<string, unknown>): Record<string, unknown> {
  const needed = ['endpoint', 'bucket', 'region'].map(name => [name, fittingTexts[name]?.[0]]);
  return { ...Object.fromEntries(needed), ...body, provider: 'custom' };
}

/** Values that a schema's text would not tell; the test adds the endpoint that is there. */
export const fittingTexts: Record<string, readonly string[]> = {
  name: ['Nightly', '  spaces  ', 'x', 'Ünïcödé 💥', '\ud800', 'a'.repeat(200)],
  bucketUrl: [
    'https://acme.s3.eu-west-1.amazonaws.com/x',
    'https://a.b',
    's3://acme',
    'https://acme.s3.EU.amazonaws.com',
  ],
  bucket: ['acme', 'Acme_1', 'a', '127.0.0.1', 'a..b', '../x', 'acme?x', 'b--x-s3'],
  region: ['us-east-1', 'auto', '', 'a b', '../'],
  key: ['exports', '/exports/', '', 'a//b', '../x', 'ü💥', 'a?b#c', 'a\u0001b', ' ', 'x'.repeat(900)],
  endpoint: [
    'http://127.0.0.1:1',
    'http://localhost',
    'https://inside.example',
    'https://absent.example',
    'https://169.254.169.254',
    'https://[::1]',
    'file:///etc/passwd',
    'https://a@10.0.0.1',
    'HTTPS://10.0.0.1:99999',
    'https://10.0.0.1/x',
  ],
  accessKeyId: ['AKIAFUZZ', ' AKIAFUZZ\n', 'a/b', 'ü', ''],
  secretAccessKey: ['secret-of-the-fuzzer-1234', '', 'ü', 'a b'],
  expiresAt: [
    '2027-01-01T00:00:00.123456Z',
    '2030-06-30T12:00:00-03:30',
    '2026-03-02T10:00:00Z',
    '2027-01-01T00:00:00+02:00',
    '9999-12-31T23:59:59-15:00',
    '9999-12-31T23:59:60Z',
    '2026-12-31',
    '2027-02-30T00:00:00Z',
    '2100-01-01T24:00:00Z',
  ],
  snapshotDate: ['2026-03-01', '2026-03-02', '2026-02-30', '9999-12-31', '0000-01-01', '0001-01-01'],
};

/** @param name of the property that the value is for */
function fitting(schema: Json, name = ''): fc.Arbitrary<unknown> {
  const texts = fittingTexts[name];
  if (texts !== undefined)
    return fc.nat().map(index => fittingTexts[name]?.[index % (fittingTexts[name]?.length ?? 1)]);
  if (Array.isArray(schema['enum'])) return fc.constantFrom(...(schema['enum'] as unknown[]));
  switch (Array.isArray(schema['type']) ? schema['type'][0] : schema['type']) {
    case 'object': {
      const properties = schema['properties'] as Record<string, Json>;
      const model = Object.entries(properties).map(([key, inner]) => [key, fitting(inner, key)] as const);
      return fc.record(Object.fromEntries(model), {
        requiredKeys: (schema['required'] as string[] | undefined) ?? [],
      });
    }
    case 'array':
      return fc.uniqueArray(fitting(schema['items'] as Json), { minLength: 1, maxLength: 3 });
    case 'integer':
      return fc.integer({ min: Number(schema['minimum'] ?? 0), max: Number(schema['maximum'] ?? 100) });
    case 'boolean':
      return fc.boolean();
    default:
      return oddText;
  }
}

/** What would have this machine talk to others is spoilt, so that it is refused before. */
function staysOnLoopback(
  entries: readonly (readonly [string, unknown])[],
): readonly (readonly [string, unknown])[] {
  const body = Object.fromEntries(entries) as { provider?: unknown; endpoint?: unknown };
  const isAmazonOrGoogle = body.provider === 'aws' || body.provider === 'gcp';
  const reachesOut = (isAmazonOrGoogle && mayParse(body)) || isPublic(body.endpoint);
  return reachesOut ? [...entries.filter(([key]) => key !== 'accessKeyId'), ['accessKeyId', '']] : entries;
}

function mayParse(body: object): boolean {
  try {
    return parseDestination(body as Parameters<typeof parseDestination>[0]).ok;
  } catch {
    return false;
  }
}

function isPublic(endpoint: unknown): boolean {
  if (typeof endpoint !== 'string' || !URL.canParse(endpoint.trim())) return false;
  return isPublicAddress(new URL(endpoint.trim()).hostname.replace(/^\[|\]$/g, ''));
}
