/** Answers of endpoints that are expensive to receive or to parse. */
import { gzipSync } from 'node:zlib';

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';
/** Bytes to send for each kind of request, as `latin1`. */
export type RawAnswers = Readonly<Record<Method, string>>;

/** Names an answer. The thread of the endpoint builds it, so that the test creates no garbage. */
export type AnswerSpec =
  | { readonly kind: 'working' }
  | { readonly kind: 'body'; readonly name: string; readonly size: number; readonly status: number }
  | { readonly kind: 'framing'; readonly name: string }
  | { readonly kind: 'endless'; readonly name: EndlessAnswer }
  | { readonly kind: 'keySet'; readonly name: string; readonly size: number };

/** Answers that never end. The endpoint sends them itself. */
export const endlessAnswers = [
  'a body without end',
  'a slow body',
  'a slow header',
  'silence',
] as const;
export type EndlessAnswer = (typeof endlessAnswers)[number];

type Bodies = Readonly<Record<string, (size: number) => string>>;

const head = (status: number, headers = '') =>
  `HTTP/1.1 ${status} x\r\nconnection: close\r\n${headers}`;
const answer = (status: number, body: string, headers = '') =>
  `${head(status, headers)}content-length: ${body.length}\r\n\r\n${body}`;
const created =
  '<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>';
const listed = '<ListBucketResult><Name>acme</Name><KeyCount>0</KeyCount></ListBucketResult>';
const working: RawAnswers = {
  GET: answer(200, listed),
  POST: answer(200, created),
  PUT: answer(200, '', 'etag: "e"\r\n'),
  DELETE: answer(204, ''),
};

const times = (text: string, bytes: number) => text.repeat(Math.ceil(bytes / text.length));
export const kib = 1024;
const numbered = (size: number, make: (index: number) => string) =>
  Array.from({ length: Math.ceil(size / make(99_999).length) }, (_, index) => make(index)).join('');

export const bodies: Bodies = {
  'document types behind an empty comment': size =>
    `<!-->${times('<!DOCTYPE>', size)}<Error/><!---->`,
  'document types': size => `${times('<!DOCTYPE a>', size)}<Error/>`,
  'an open document type': size => `<!doctype ${times('[', size)}`,
  'declarations of entities': size =>
    `<!DOCTYPE a [${times('<!ENTITY a "&a;&a;">', size)}]><a>&a;</a>`,
  'processing instructions': size => `${times('<?a?>', size)}<Error/>`,
  comments: size => `<a>${times('<!---->', size)}</a>`,
  'empty elements': size => `<Error>${times('<C/>', size)}</Error>`,
  'elements on lines': size => `<Error>${times('\n<C/>', size)}</Error>`,
  'deep elements': size => `${times('<a>', size / 2)}${times('</a>', size / 2)}`,
  'unclosed elements': size => times('<a>', size),
  'deep elements that look closed': size => times('<a b="/>">', size),
  'distinct elements': size => `<Error>${numbered(size, index => `<a${index}/>`)}</Error>`,
  'numbered elements': size => `<Error>${numbered(size, index => `<${index * 40_000}/>`)}</Error>`,
  attributes: size => `<Error ${numbered(size, index => `a${index}="" `)}/>`,
  'one long attribute': size => `<Error a="${times('&amp;', size)}"/>`,
  entities: size => `<Error><Code>${times('&amp;', size)}</Code></Error>`,
  'unknown entities': size => `<Error><Code>${times('&a;', size)}</Code></Error>`,
  ampersands: size => `<Error><Code>${times('&', size)}</Code></Error>`,
  'a long text': size => `<Error><Code>${times('a', size)}</Code></Error>`,
  'a long message': size =>
    `<Error><Code>SlowDown</Code><Message>${times('x', size)}</Message></Error>`,
  'texts between elements': size => `<Error>${times('a<C/>', size)}</Error>`,
  sections: size => `<Error>${times('<![CDATA[]]>', size)}</Error>`,
  'an open section': size => `<Error><![CDATA[${times('a', size)}`,
  'line breaks': size => `<Error>${times('\r\n', size)}</Error>`,
  spaces: size => `${times(' ', size)}<Error/>`,
  uploads: size =>
    `<ListMultipartUploadsResult>${times('<Upload><Key>exports/file.csv</Key><UploadId>u</UploadId></Upload>', size)}</ListMultipartUploadsResult>`,
  'binary data': size => gzipSync(Buffer.from(times('<C/>', size))).toString('latin1'),
  'text that is not XML': size => times('a=b&', size),
};

const manyHeaders = () => Array.from({ length: 1_500 }, (_, index) => `a${index}: b\r\n`).join('');

export const framings: Readonly<Record<string, () => string>> = {
  'a protocol change': () => `${head(101, 'upgrade: h2c\r\n').replace('close', 'upgrade')}\r\n`,
  'interim answers': () => `${times('HTTP/1.1 102 Processing\r\n\r\n', 1_024 * kib)}${working.GET}`,
  'early hints': () =>
    `${times('HTTP/1.1 103 x\r\nlink: </a>\r\n\r\n', 1_024 * kib)}${working.GET}`,
  'many headers': () => answer(200, '', manyHeaders()),
  'a long header': () => answer(200, '', `etag: "${times('e', 15_000)}"\r\n`),
  'an endless header': () => `${head(200)}a: ${times('b', 512 * kib)}`,
  'tiny chunks': () =>
    `${head(200)}transfer-encoding: chunked\r\n\r\n${times('1\r\na\r\n', 512 * kib)}`,
  'chunk extensions': () =>
    `${head(200)}transfer-encoding: chunked\r\n\r\n1;${times('a', 512 * kib)}`,
  'an endless chunk': () =>
    `${head(200)}transfer-encoding: chunked\r\n\r\nffffffff\r\n${times('a', 512 * kib)}`,
  trailers: () =>
    `${head(200)}transfer-encoding: chunked\r\n\r\n0\r\n${times('a: b\r\n', 512 * kib)}`,
  compressed: () =>
    answer(
      200,
      gzipSync(Buffer.alloc(8 * 1024 * kib, 'a')).toString('latin1'),
      'content-encoding: gzip\r\n',
    ),
  'many answers': () => times(working.GET.replace('close', 'keep-alive'), 512 * kib),
  'a mail server': () => '220 mail.example ESMTP\r\n',
  nothing: () => '',
};

export const keySets: Bodies = {
  'deep arrays': size => `{"keys":[${times('[', size)}`,
  'many keys': size => `{"keys":[${times('{"kty":"RSA"},', size)}{}]}`,
  'closed deep arrays': () => `{"keys":${times('[', 30 * kib)}${times(']', 30 * kib)}}`,
  'many keys within the limit': () => `{"keys":[${times('{"kty":"RSA"},', 60 * kib)}{}]}`,
};

export function buildAnswers(spec: AnswerSpec): RawAnswers {
  switch (spec.kind) {
    case 'working':
    case 'endless':
      return working;
    case 'body':
      return same(answer(spec.status, bodies[spec.name]?.(spec.size) ?? '', 'etag: "e"\r\n'));
    case 'framing':
      return same(framings[spec.name]?.() ?? '');
    case 'keySet':
      return same(answer(200, keySets[spec.name]?.(spec.size) ?? ''));
  }
}

function same(raw: string): RawAnswers {
  return { GET: raw, POST: raw, PUT: raw, DELETE: raw };
}
