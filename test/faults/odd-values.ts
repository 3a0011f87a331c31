/** Values that break programs which do not expect them. */
import fc from 'fast-check';

export const oddTexts = [
  '',
  ' ',
  '\u0000',
  'a\u0000b',
  '\ufeff',
  '\u202e',
  '\ud800',
  'x\udc00y',
  '\uffff',
  '💥',
  'e\u0301'.repeat(40),
  '\u{10ffff}',
  '\r\nx-injected: yes',
  '\u001b[31m',
  '../../etc/passwd',
  '..',
  '%00',
  '%',
  '%s%n%d',
  '$1',
  "'; drop table environments; --",
  '\\',
  '{}',
  '<script>',
  '__proto__',
  'constructor',
  'hasOwnProperty',
  'toString',
  'null',
  'undefined',
  'NaN',
  '-0',
  '1e400',
  '9'.repeat(400),
  'İ',
  'ß'.repeat(300),
  'x'.repeat(201),
  'x'.repeat(5_000),
] as const;

const oddNumbers = [
  0,
  -0,
  -1,
  1.5,
  2 ** 31,
  2 ** 53,
  2 ** 63,
  1e21,
  1e308,
  5e-324,
  -1e308,
] as const;

export const oddText: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(...oddTexts),
  fc.string({ unit: 'binary', maxLength: 30 }),
  fc.string({ unit: 'grapheme', maxLength: 30 }),
);

/** A JSON value of any type and shape. */
export const oddValue: fc.Arbitrary<unknown> = fc.oneof(
  oddText,
  fc.constantFrom<unknown>(null, true, false, [], {}, [[]], [null], ...oddNumbers),
  fc.jsonValue({ maxDepth: 3 }),
  fc.integer({ min: 1, max: 2_000 }).map(depth => nested(depth)),
);

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let level = 0; level < depth; level += 1) value = level % 2 === 0 ? [value] : { a: value };
  return value;
}

/**
 * Returns the JSON text of an object from its entries. Keys may be repeated or be special, such as
 * `__proto__`.
 */
export function objectText(entries: readonly (readonly [string, unknown])[]): string {
  return `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value) ?? 'null'}`).join(',')}}`;
}

/** Keys that pollute prototypes or that no schema contains. */
export const oddKey = fc.oneof(
  fc.constantFrom(
    '__proto__',
    'constructor',
    'prototype',
    'toString',
    'hasOwnProperty',
    '',
    'length',
    '$ref',
    'a/b~c',
  ),
  oddText,
);

/** Functions that add bytes to a JSON text, or replace it, so that it is invalid JSON. */
export const oddBytes: fc.Arbitrary<(text: string) => Buffer> = fc.oneof(
  fc
    .nat({ max: 200 })
    .map(cut => (text: string) => Buffer.from(text.slice(0, Math.min(cut, text.length - 1)))),
  fc.constantFrom(
    (text: string) => Buffer.from(`\ufeff${text}`),
    (text: string) => Buffer.from(text, 'utf16le'),
    (text: string) => Buffer.concat([Buffer.from(text), Buffer.from([0xff])]),
    (text: string) => Buffer.from(`${text}${text}`),
    (text: string) => Buffer.from(`${text.slice(0, -1)},}`),
    (text: string) => Buffer.from(`${text.slice(0, -1)},"x":1e999}`),
    (text: string) => Buffer.from(`${text.slice(0, -1)},"x":"\\ud800"}`),
    (text: string) => Buffer.from(`${text.slice(0, -1)},"x":NaN}`),
    (text: string) => Buffer.from(text.replace('{', '{"__proto__":{"polluted":1},')),
    (text: string) => Buffer.from(text.replace('{', '{"\\u005f\\u005fproto__":{"polluted":1},')),
    (text: string) =>
      Buffer.from(text.replace('{', '{"constructor":{"prototype":{"polluted":1}},')),
    () => Buffer.alloc(0),
    () => Buffer.from('['.repeat(100_000)),
    () => Buffer.from('{"a":'.repeat(30_000)),
    () => Buffer.from(`{"name":"${'x'.repeat(300_000)}"}`),
    () => Buffer.from([0x80, 0xfe, 0xff, 0x00]),
  ),
);
