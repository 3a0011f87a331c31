import type { IncomingHttpHeaders } from 'node:http';
import t from 'tap';
import { chooseAnswer, type Representation } from '../../src/http/conditional-request.ts';

const etag = '"abc-csv"';
const file: Representation = {
  etag,
  lastModified: new Date('2026-03-02T10:00:00.700Z'),
  isDateValidator: true,
  sizeBytes: 1_000,
};
const completedAt = 'Mon, 02 Mar 2026 10:00:00 GMT';
const before = 'Mon, 02 Mar 2026 09:59:59 GMT';
const after = 'Mon, 02 Mar 2026 10:00:01 GMT';

type Expected = 200 | 304 | 412 | 416 | readonly [start: number, end: number];

function check(
  t: { strictSame(found: unknown, wanted: unknown, what: string): unknown },
  headers: IncomingHttpHeaders,
  expected: Expected,
  changes: Partial<Representation> = {},
  method = 'GET',
): void {
  const answer = chooseAnswer(method, headers, { ...file, ...changes });
  const found = answer.status === 206 ? [answer.range.start, answer.range.end] : answer.status;
  const what = JSON.stringify({ method, ...headers, ...changes });
  t.strictSame(found, expected, what);
}

t.test('answers a request without conditions with the whole file', async t => {
  check(t, {}, 200);
  check(t, {}, 200, {}, 'HEAD');
});

t.test('answers If-None-Match by weak comparison', async t => {
  for (const [value, expected] of [
    [etag, 304],
    [`W/${etag}`, 304],
    ['*', 304],
    [`"x", ${etag}`, 304],
    [`"x",${etag} , "y"`, 304],
    ['"abc"', 200],
    ['"abc-csv-gzip"', 200],
    ['abc-csv', 200],
    ['', 200],
  ] as const) {
    check(t, { 'if-none-match': value }, expected);
    check(t, { 'if-none-match': value }, expected, {}, 'HEAD');
  }
});

t.test('answers If-Modified-Since only without If-None-Match', async t => {
  check(t, { 'if-modified-since': completedAt }, 304);
  check(t, { 'if-modified-since': after }, 304);
  check(t, { 'if-modified-since': before }, 200);
  check(t, { 'if-modified-since': 'yesterday' }, 200);
  check(t, { 'if-modified-since': completedAt }, 200, { lastModified: null });
  check(t, { 'if-modified-since': completedAt }, 200, { isDateValidator: false });
  check(t, { 'if-none-match': '"x"', 'if-modified-since': completedAt }, 200);
  check(t, { 'if-none-match': etag, 'if-modified-since': before }, 304);
});

t.test('answers If-Match by strong comparison, before everything else', async t => {
  for (const [value, expected] of [
    [etag, 200],
    ['*', 200],
    [`"x", ${etag}`, 200],
    [`W/${etag}`, 412],
    ['"x"', 412],
    ['"x", "y"', 412],
    ['abc-csv', 412],
    ['', 412],
  ] as const) {
    check(t, { 'if-match': value }, expected);
    check(t, { 'if-match': value }, expected, {}, 'HEAD');
  }
  check(t, { 'if-match': '"x"', 'if-none-match': etag }, 412);
  check(t, { 'if-match': etag, 'if-none-match': etag }, 304);
  check(t, { 'if-match': '"x"', range: 'bytes=0-1' }, 412);
  check(t, { 'if-match': etag, range: 'bytes=0-1' }, [0, 1]);
});

t.test('answers If-Unmodified-Since only without If-Match', async t => {
  check(t, { 'if-unmodified-since': before }, 412);
  check(t, { 'if-unmodified-since': completedAt }, 200);
  check(t, { 'if-unmodified-since': after }, 200);
  check(t, { 'if-unmodified-since': 'soon' }, 200);
  check(t, { 'if-unmodified-since': before }, 200, { lastModified: null });
  check(t, { 'if-unmodified-since': after }, 412, { isDateValidator: false });
  check(t, { 'if-unmodified-since': 'soon' }, 200, { isDateValidator: false });
  check(t, { 'if-match': etag, 'if-unmodified-since': before }, 200);
});

t.test('serves one range, and the whole file for everything that is not one range', async t => {
  for (const [range, expected] of [
    ['bytes=0-0', [0, 0]],
    ['bytes=0-', [0, 999]],
    ['bytes=500-', [500, 999]],
    ['bytes=500-599', [500, 599]],
    ['bytes=500-9999999', [500, 999]],
    ['bytes=-1', [999, 999]],
    ['bytes=-1000', [0, 999]],
    ['bytes=-9999', [0, 999]],
    ['BYTES=1-2', [1, 2]],
    ['bytes= 1-2 ', [1, 2]],
    ['bytes=1-2,', [1, 2]],
    ['bytes=999-', [999, 999]],
    ['bytes=1000-', 416],
    ['bytes=1000-1001', 416],
    ['bytes=-0', 416],
    [`bytes=${'9'.repeat(400)}-`, 416],
    ['bytes=2000-,3000-', 416],
    ['bytes=0-1,5-6', 200],
    ['bytes=0-4,5-9', 200],
    ['bytes=0-1,2000-', 200],
    ['bytes=2-1', 200],
    ['bytes=a-b', 200],
    ['bytes=0x1-2', 200],
    ['bytes=1.5-2', 200],
    ['bytes=-', 200],
    ['bytes=', 200],
    ['bytes', 200],
    ['', 200],
    ['rows=0-1', 200],
    ['bytes=0-1;5-6', 200],
    ['bytes=--1', 200],
  ] as const) {
    check(t, { range }, expected);
    check(t, { range }, 200, {}, 'HEAD');
    check(t, { range }, 200, { sizeBytes: null });
  }
});

t.test('serves a range only if If-Range is the ETag', async t => {
  const range = 'bytes=10-19';
  for (const [value, expected] of [
    [etag, [10, 19]],
    [completedAt, 200],
    [`W/${etag}`, 200],
    ['"x"', 200],
    [`${etag}, "x"`, 200],
    ['*', 200],
    ['abc-csv', 200],
    [before, 200],
    [after, 200],
    ['', 200],
  ] as const) {
    check(t, { range, 'if-range': value }, expected);
  }
  // The range starts after the end of a file that was replaced: the caller gets the new file.
  check(t, { range: 'bytes=5000-', 'if-range': '"x"' }, 200);
  check(t, { range: 'bytes=5000-', 'if-range': etag }, 416);
  check(t, { 'if-range': etag }, 200);
});

t.test('chooses within milliseconds for the longest header that Node accepts', async t => {
  const startedAt = process.cpuUsage();
  for (const range of [
    `bytes=${'0-0,'.repeat(4_000)}`,
    `bytes=${',-'.repeat(8_000)}`,
    `bytes=${' '.repeat(16_000)}x`,
  ]) {
    chooseAnswer('GET', { range }, file);
    chooseAnswer('GET', { 'if-match': range.replaceAll('0', '"') }, file);
    chooseAnswer('GET', { 'if-match': '"'.repeat(16_000) }, file);
    chooseAnswer('GET', { 'if-none-match': range }, file);
  }
  const { user } = process.cpuUsage(startedAt);
  t.ok(user < 100_000, `${user} µs of CPU time`);
});
