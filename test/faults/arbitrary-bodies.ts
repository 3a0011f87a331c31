/**
 * Request bodies generated from the schemas of openapi.yaml. Most are valid except for one odd
 * part.
 */
import fc from 'fast-check';
import { parseDestination } from '../../src/destinations/destination.ts';
import { isPublicAddress } from '../../src/outbound/endpoint-allowlist.ts';
import type { Operation } from './documented-answers.ts';
import { objectText, oddBytes, oddKey, oddText, oddValue } from './odd-values.ts';

type Json = Readonly<Record<string, unknown>>;

const csvHeader =
  'Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,STARS State,Frequency,Satisfaction,Feedback Count,Segment Names,Segment IDs\n';
const csvRow = 'c1,,f1,F,2026-01-01,2026-01-01,,,1,0,,0,,\n';
const csvBody = fc.oneof(
  fc.constant(csvHeader + csvRow),
  fc.constantFrom(
    csvHeader,
    '',
    csvHeader + csvRow + csvRow,
    csvHeader.repeat(2),
    '"',
    ',',
    '\n\n',
    '\u0000',
  ),
  oddText.map(text => csvHeader + text),
);

/** Generates bodies for the operation. Most are valid or have one odd part. */
export function bodyOf(operation: Operation): fc.Arbitrary<Buffer | null> {
  if (operation.method === 'PUT' && operation.path.endsWith('{date}'))
    return csvBody.map(text => Buffer.from(text));
  const anything = fc.oneof(
    oddValue.map(value => Buffer.from(JSON.stringify(value))),
    oddBytes.map(make => make('{"a":1}')),
  );
  if (operation.body === null) {
    return fc.oneof(
      { arbitrary: fc.constant(null), weight: 5 },
      { arbitrary: anything, weight: 1 },
    );
  }
  const body = withAllFields(operation.body);
  const any = fitting(body) as fc.Arbitrary<Record<string, unknown>>;
  const isConfig = 'provider' in (body['properties'] as Json);
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
    {
      arbitrary: good.map(body => Object.entries(body) as (readonly [string, unknown])[]),
      weight: 8,
    },
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

/**
 * Returns one schema with the fields of all alternatives, so that odd mixtures are sent as well.
 */
function withAllFields(schema: Json): Json {
  const { oneOf } = schema as { oneOf?: readonly Json[] };
  if (oneOf === undefined) return schema;
  const properties = Object.assign({}, ...oneOf.map(one => one['properties']));
  const providers = oneOf.map(one => (one['properties'] as Record<string, Json>)['provider']);
  const [first = [], ...others] = oneOf.map(one => one['required'] as readonly string[]);
  const required = first.filter(name => others.every(names => names.includes(name)));
  const provider = { type: 'string', enum: providers.map(one => one?.['const']) };
  return { type: 'object', properties: { ...properties, provider }, required };
}

/** Returns a body whose fields fit together. Chance alone would rarely combine them. */
function ofOneProvider(body: Record<string, unknown>): Record<string, unknown> {
  const needed = ['endpoint', 'bucket', 'region', 'accessKeyId', 'secretAccessKey'];
  const { bucketUrl: _b, roleArn: _r, encryption: _e, format: _f, ...fitting } = body;
  return {
    ...Object.fromEntries(needed.map(name => [name, fittingTexts[name]?.[0]])),
    ...fitting,
    provider: 'custom',
  };
}

/** Values that the schema does not describe. The test adds the endpoint of its storage. */
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
  key: [
    'exports',
    '/exports/',
    '',
    'a//b',
    '../x',
    'ü💥',
    'a?b#c',
    'a\u0001b',
    ' ',
    'x'.repeat(900),
  ],
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
  failureWebhook: [
    'http://127.0.0.1:1/',
    'https://inside.example/x?y',
    'https://absent.example',
    'https://[::1]/',
    'http://hooks.example.com',
    'https://a@hooks.example.com',
    'https://hooks.example.com/#',
  ],
  url: ['http://127.0.0.1:1/', 'https://hooks.example.com/?x', 'https://[::1]/', 'http://a b/'],
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
  roleArn: ['arn:aws:iam::123456789012:role/exports', 'arn:aws:s3:::acme', ''],
  kmsKeyId: ['alias/exports', '', 'ü💥'],
  from: ['2026-03-01', '2026-02-27', '2026-02-30', '0001-01-01'],
  to: ['2026-03-01', '2026-03-02', '2026-02-30', '9999-12-31'],
  snapshotDate: [
    '2026-03-01',
    '2026-03-02',
    '2026-02-30',
    '9999-12-31',
    '0000-01-01',
    '0001-01-01',
  ],
};

/**
 * Generates valid values for the schema.
 * @param name name of the property
 */
function fitting(schema: Json, name = ''): fc.Arbitrary<unknown> {
  const texts = fittingTexts[name];
  if (texts !== undefined)
    return fc.nat().map(index => fittingTexts[name]?.[index % (fittingTexts[name]?.length ?? 1)]);
  if (Array.isArray(schema['enum'])) return fc.constantFrom(...(schema['enum'] as unknown[]));
  switch (Array.isArray(schema['type']) ? schema['type'][0] : schema['type']) {
    case 'object': {
      const properties = schema['properties'] as Record<string, Json>;
      const model = Object.entries(properties).map(
        ([key, inner]) => [key, fitting(inner, key)] as const,
      );
      return fc.record(Object.fromEntries(model), {
        requiredKeys: (schema['required'] as string[] | undefined) ?? [],
      });
    }
    case 'array':
      return fc.uniqueArray(fitting(schema['items'] as Json), { minLength: 1, maxLength: 3 });
    case 'integer':
      return fc.integer({
        min: Number(schema['minimum'] ?? 0),
        max: Number(schema['maximum'] ?? 100),
      });
    case 'boolean':
      return fc.boolean();
    default:
      return oddText;
  }
}

/**
 * Makes a body invalid if it would make this machine connect to others, so that it is rejected
 * before.
 */
function staysOnLoopback(
  entries: readonly (readonly [string, unknown])[],
): readonly (readonly [string, unknown])[] {
  const body = Object.fromEntries(entries) as { provider?: unknown; endpoint?: unknown };
  const isAmazonOrGoogle = body.provider === 'aws' || body.provider === 'gcp';
  const reachesOut = (isAmazonOrGoogle && mayParse(body)) || isPublic(body.endpoint);
  return reachesOut
    ? [...entries.filter(([key]) => key !== 'accessKeyId'), ['accessKeyId', '']]
    : entries;
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
