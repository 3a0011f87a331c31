import t from 'tap';
import { parseEndpointAllowlist } from '../../src/outbound/endpoint-allowlist.ts';
import { parseWebhookUrl } from '../../src/webhooks/webhook-url.ts';
import { forbiddenHosts } from '../outbound/forbidden-hosts.ts';

const nothingListed = parseEndpointAllowlist([]);
const parse = (text: string, entries: readonly string[] = []) =>
  parseWebhookUrl(text, parseEndpointAllowlist(entries));

t.test('accepts public https URLs and normalizes them', async t => {
  const table = [
    ['https://hooks.example.com', 'https://hooks.example.com/'],
    ['https://hooks.example.com:8443/a/b?c=d&e', 'https://hooks.example.com:8443/a/b?c=d&e'],
    ['HTTPS://Hooks.Example.com:443/Ä', 'https://hooks.example.com/%C3%84'],
    ['https://bücher.example/?@', 'https://xn--bcher-kva.example/?@'],
    ['https://8.8.8.8/x', 'https://8.8.8.8/x'],
    ['https://[2606:4700::1]/', 'https://[2606:4700::1]/'],
  ] as const;
  for (const [text, url] of table) t.strictSame(parse(text), { ok: true, url }, text);
});

t.test('rejects malformed, non-https and credential-bearing URLs', async t => {
  for (const text of [
    '',
    'x',
    'hooks.example.com',
    '//hooks.example.com',
    'https:hooks.example.com',
    'https:/hooks.example.com',
    'https:\\\\hooks.example.com',
    'https://hooks.example.com\\@127.0.0.1/',
    ' https://hooks.example.com',
    'https://hooks.example.com\n',
    'https://hooks.exa\tmple.com',
    'https://hooks.example.com/\u0000',
    'https://hooks.example.com/\u0085',
    'https://hooks.example.com:99999',
    'https://',
    'https://a b/',
    'ftp://hooks.example.com',
    'file:///etc/passwd',
    'javascript:alert(1)',
    'https://user@hooks.example.com/',
    'https://user:password@hooks.example.com/',
    'https://@hooks.example.com/',
    'https://:@hooks.example.com/',
    'https:///user:password@hooks.example.com/',
    'https:////user@hooks.example.com/',
    'https:///hooks.example.com/',
    'https://hooks.example.com/#x',
    'https://hooks.example.com/#',
    'https://hooks.example.com#@127.0.0.1',
    `https://hooks.example.com/${'x'.repeat(2_048)}`,
    `https://hooks.example.com/${'ü'.repeat(400)}`,
    'http://hooks.example.com/',
    'http://8.8.8.8/',
  ]) {
    t.match(parse(text), { ok: false, error: String }, JSON.stringify(text));
  }
});

t.test('rejects every spelling of a forbidden address', async t => {
  for (const host of forbiddenHosts()) {
    for (const url of [`https://${host}/`, `https://${host}:8443/x?y`, `http://${host}/`]) {
      t.equal(parseWebhookUrl(url, nothingListed).ok, false, url);
    }
  }
});

t.test('accepts addresses and names on the allow-list', async t => {
  const table: [string, string[], boolean][] = [
    ['http://127.0.0.1:9000/x', ['127.0.0.1'], true],
    ['http://127.0.0.1:9000/x', ['127.0.0.1:9000'], true],
    ['http://127.0.0.1:9000/x', ['127.0.0.1:9001'], false],
    ['https://10.1.2.3/x', ['10.0.0.0/8'], true],
    ['https://10.1.2.3/x', ['11.0.0.0/8'], false],
    ['http://hooks.internal/x', ['hooks.internal:80'], true],
    ['https://hooks.internal/x', ['hooks.internal:443'], true],
    ['http://hooks.internal/x', ['other.internal'], false],
    // The address of the name is checked when the worker connects.
    ['http://hooks.internal/x', ['10.0.0.0/8'], true],
  ];
  for (const [url, entries, open] of table)
    t.equal(parse(url, entries).ok, open, `${entries} ${url}`);
});
