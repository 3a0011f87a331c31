import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { longestBlockMs } from '../helpers/longest-block.ts';

const app = await startTestApp(t);
await app.putEnvironment('acme');

const environment = '/v1/environments/acme';
const routes = [
  ['PUT', environment],
  ['POST', `${environment}/api-keys`],
  ['POST', `${environment}/download-links`],
  ['POST', `${environment}/export-configs`],
  ['POST', `${environment}/export-configs/validate`],
] as const;

/** Returns bodies of about the given size that are expensive to parse or to validate. */
const shapes: Readonly<Record<string, (bytes: number) => string>> = {
  'many unknown properties': bytes =>
    `{${Array.from({ length: bytes / 9 }, (_, index) => `"p${index}":1`).join(',')}}`,
  'nested arrays': bytes => '['.repeat(bytes / 2) + ']'.repeat(bytes / 2),
  'nested arrays in a field': bytes =>
    `{"scopes":${'['.repeat(bytes / 2 - 10)}${']'.repeat(bytes / 2 - 10)}}`,
  'nested objects': bytes => `${'{"a":'.repeat(bytes / 6 - 2)}1${'}'.repeat(bytes / 6 - 2)}`,
  'a long string': bytes => `{"name":"${'x'.repeat(bytes - 20)}"}`,
  'a long property name': bytes => `{"${'~/'.repeat(bytes / 2 - 20)}":1}`,
  'a long number': bytes => `{"expiresInSeconds":${'9'.repeat(bytes - 30)}}`,
  'a number beyond every range': bytes => `{"expiresInSeconds":1e${'9'.repeat(bytes - 30)}}`,
  'many items': bytes => `{"scopes":[${'1,'.repeat(bytes / 2 - 20)}1]}`,
  'many equal items': bytes =>
    `{"name":"x","scopes":[${'"exports:read",'.repeat(bytes / 15 - 20)}"exports:read"]}`,
  'many prototypes': bytes => `{${'"__proto__":1,'.repeat(bytes / 14 - 2)}"a":1}`,
};

for (const kib of [15, 18, 250]) {
  t.test(`answers bodies of ${kib} KiB without blocking the event loop`, async t => {
    for (const [shape, make] of Object.entries(shapes)) {
      const body = make(Math.floor(kib * 1024));
      for (const [method, path] of routes) {
        const send = () =>
          app.call(path, { method, body, headers: { 'content-type': 'application/json' } });
        const blockedMs = await longestBlockMs(async () => {
          const answer = await send();
          const what = `${method} ${path}: ${shape}: ${answer.text.slice(0, 200)}`;
          t.equal(answer.status, kib > 16 ? 413 : 400, what);
          if (kib > 16) t.equal(answer.json.code, 'payload_too_large', what);
          else t.ok(answer.json.errors.length <= 20, what);
          t.ok(answer.text.length < 8_192, `${what}: ${answer.text.length} bytes`);
        });
        t.ok(blockedMs < 50, `${method} ${path}: ${shape}: ${blockedMs} ms`);
      }
    }
  });
}

const put = async (body: string) => {
  const headers = { 'content-type': 'application/json' };
  const answer = await app.call(environment, { method: 'PUT', body, headers });
  return answer.json.errors as { path: string; message: string }[];
};

t.test('names the first unknown properties as JSON pointers', async t => {
  t.strictSame(await put('{"name":"a","plan":"pro","a/b":1,"c~d":1}'), [
    { path: '/a~1b', message: 'is not a known property' },
    { path: '/c~0d', message: 'is not a known property' },
  ]);
  const many = Object.fromEntries(Array.from({ length: 30 }, (_, index) => [`p${index}`, 1]));
  const errors = await put(JSON.stringify({ name: 'a', plan: 'pro', ...many }));
  t.equal(errors.length, 20);
  t.strictSame(errors[0], { path: '/p0', message: 'is not a known property' });
});

t.test('refuses too many values and too deep nesting by name', async t => {
  t.strictSame(await put(JSON.stringify({ name: 'a', plan: Array(200).fill(1) })), [
    { path: '', message: 'has more than 200 values' },
  ]);
  t.strictSame(await put(`{"name":${'['.repeat(9)}${']'.repeat(9)}}`), [
    { path: '', message: 'is nested more than 8 levels deep' },
  ]);
});
