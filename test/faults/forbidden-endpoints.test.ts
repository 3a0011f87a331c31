import os from 'node:os';
import ipaddr from 'ipaddr.js';
import t from 'tap';
import { isPublicAddress, parseEndpointAllowlist } from '../../src/outbound/endpoint-allowlist.ts';
import { createDocument, fakeEndpoint, listDocument } from '../destinations/s3/fake-endpoint.ts';
import { startTestApp } from '../helpers/app.ts';
import { registerSecret } from '../helpers/secrets.ts';

/**
 * Endpoints that would make the service connect to its internal network, sent to every route that
 * accepts an endpoint.
 */

t.setTimeout(600_000);

/** An internal service that the endpoint guard must protect. It answers like a storage. */
const inside = await fakeEndpoint((request, response) => {
  if (request.method === 'DELETE') response.writeHead(204).end();
  else response.end(request.method === 'POST' ? createDocument('u1') : listDocument);
});
t.teardown(inside.close);
const insidePort = new URL(inside.destination.endpoint ?? '').port;
/** The endpoint that the allow-list contains. */
const allowed = await fakeEndpoint((request, response) => {
  if (request.method === 'DELETE') response.writeHead(204).end();
  else response.end(request.method === 'POST' ? createDocument('u1') : listDocument);
});
t.teardown(allowed.close);
const allowedEndpoint = allowed.destination.endpoint ?? '';
const allowedHost = new URL(allowedEndpoint).host;

/** Addresses of names. Other names do not resolve, except those of this machine. */
const names: Readonly<Record<string, readonly string[]>> = {
  'inside.example': ['127.0.0.1'],
  'inside6.example': ['::1'],
  'mapped.example': ['::ffff:127.0.0.1'],
  'nat64.example': ['64:ff9b::7f00:1'],
  'both.example': ['8.8.8.8', '127.0.0.1'],
  'metadata.google.internal': ['169.254.169.254'],
  'unspecified.example': ['0.0.0.0'],
};
let rebinding = 0;
const app = await startTestApp(t, {
  adjust: dependencies => ({
    ...dependencies,
    clientEnvironment: {
      allowlist: parseEndpointAllowlist([allowedHost]),
      resolve: (name, _options, done) => {
        const host = name.toLowerCase().replace(/\.$/, '');
        const isOwn =
          host === 'localhost' ||
          host.endsWith('.localhost') ||
          host === os.hostname().toLowerCase();
        rebinding += host === 'moves.example' ? 1 : 0;
        // DNS rebinding: the first answer is an unused address, all later answers are internal.
        const moving =
          host === 'moves.example' ? [rebinding === 1 ? '127.0.0.2' : '127.0.0.1'] : undefined;
        const found = isOwn ? ['127.0.0.1'] : (moving ?? names[host]);
        if (found === undefined)
          return done(Object.assign(new Error(name), { code: 'ENOTFOUND' }), []);
        return done(
          null,
          found.map(address => ({
            address,
            family: ipaddr.parse(address).kind() === 'ipv6' ? 6 : 4,
          })),
        );
      },
    },
  }),
});

const addresses = [
  '127.0.0.1',
  '127.1.2.3',
  '10.0.0.1',
  '172.16.0.1',
  '192.168.0.1',
  '169.254.169.254',
  '169.254.170.2',
  '100.64.0.1',
  '100.100.100.200',
  '168.63.129.16',
  '0.0.0.0',
  '192.0.0.192',
  '198.18.0.1',
  '224.0.0.1',
  '255.255.255.255',
];

/** Returns ways to write one address, including some that no URL parser accepts. */
function spellings(address: string): string[] {
  const [a = 0, b = 0, c = 0, d = 0] = ipaddr.parse(address).toByteArray();
  const whole = ((a * 256 + b) * 256 + c) * 256 + d;
  const hex = (value: number) => `0x${value.toString(16)}`;
  const octal = (value: number) => `0${value.toString(8)}`;
  const words = `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
  return [
    address,
    `${address}.`,
    `${address}..`,
    `${whole}`,
    `${whole + 2 ** 32}`,
    hex(whole),
    `0X${whole.toString(16).toUpperCase()}`,
    `0x0000000${whole.toString(16)}`,
    octal(whole),
    [a, b, c, d].map(hex).join('.'),
    [a, b, c, d].map(octal).join('.'),
    `${a}.${(b * 256 + c) * 256 + d}`,
    `${a}.${b}.${c * 256 + d}`,
    `${hex(a)}.${b}.${octal(c)}.${d}`,
    `${a + 256}.${b}.${c}.${d}`,
    [...address].map(character => `%${character.charCodeAt(0).toString(16)}`).join(''),
    address.replaceAll('.', '%2e'),
    address.replaceAll('.', '。'),
    address.replaceAll('.', '．'),
    address.replace(/\d/g, digit =>
      digit === '0' ? '⓪' : String.fromCodePoint(0x245f + Number(digit)),
    ),
    address.replace(/\d/g, digit => String.fromCodePoint(0xff10 + Number(digit))),
    address.replace(/\d/g, digit => String.fromCodePoint(0x1d7ce + Number(digit))),
    `${address.slice(0, 3)}\u00ad${address.slice(3)}`,
    `[::ffff:${address}]`,
    `[::FFFF:${words}]`,
    `[0:0:0:0:0:ffff:${words}]`,
    `[::${words}]`,
    `[64:ff9b::${words}]`,
    `[2002:${words}::1]`,
    `[::ffff:${address}%25lo]`,
    `user@${address}`,
    `public.example@${address}`,
    `public.example:x@${address}`,
  ];
}

const hosts = [
  ...addresses.flatMap(spellings),
  ...[
    '::',
    '::1',
    '0:0:0:0:0:0:0:1',
    'fe80::1',
    'fe80::1%25eth0',
    'fec0::1',
    'fc00::1',
    'fd00:ec2::254',
    'ff02::1',
    '100::1',
    '2001:db8::1',
    '2001::1',
    '4000::1',
  ].map(address => `[${address}]`),
  ...[
    'localhost',
    'LOCALHOST',
    'localhost.',
    'ｌｏｃａｌｈｏｓｔ',
    'loc%61lhost',
    'ⓛⓞⓒⓐⓛⓗⓞⓢⓣ',
    'x.localhost',
    os.hostname(),
  ],
  ...Object.keys(names),
  'moves.example',
  'absent.example',
  'absent.example.',
  'xn--absent-9a.example',
];

const endpoints = [
  ...hosts.map(host => `https://${host}:${insidePort}`),
  ...[
    'localhost',
    'inside.example',
    '127.0.0.1',
    '[::1]',
    '[::ffff:127.0.0.1]',
    '2130706433',
  ].flatMap(host => [
    `http://${host}:${insidePort}`,
    `https://${host}`,
    `HTTPS://${host}:${insidePort}/`,
    ` https://${host}:${insidePort} `,
    `https://${host}:0${insidePort}`,
    `https://${host}:${insidePort}/latest/meta-data`,
    `https://${host}:${insidePort}?x=`,
    `https://${host}:${insidePort}#@public.example`,
    `https://public.example#@${host}:${insidePort}`,
    `https://public.example?@${host}:${insidePort}`,
    `https://public.example\\@${host}:${insidePort}`,
    `https:\\\\${host}:${insidePort}`,
    `https:/${host}:${insidePort}`,
    `https:${host}:${insidePort}`,
    `//${host}:${insidePort}`,
    `https://\t${host}:${insidePort}`,
    `https://${host}\n:${insidePort}`,
    `ht\ntps://${host}:${insidePort}`,
    `file://${host}/etc/passwd`,
    `gopher://${host}:${insidePort}/_x`,
    `ftp://${host}:${insidePort}`,
    `jar:https://${host}:${insidePort}!/`,
    `https://${host}:${insidePort}\u0000.public.example`,
    `https://${host}:99999`,
    // Neighbours of the allowed endpoint: another port, another scheme or another name.
    `${allowedEndpoint.replace('127.0.0.1', host)}0`,
  ]),
  `http://127.0.0.2:${new URL(allowedEndpoint).port}`,
  `http://localhost:${new URL(allowedEndpoint).port}`,
  `http://[::ffff:127.0.0.1]:${new URL(allowedEndpoint).port}`,
];

const body = (endpoint: string) => ({
  name: 'x',
  schedule: 'daily',
  provider: 'custom',
  endpoint,
  bucket: 'acme',
  region: 'auto',
  accessKeyId: 'AKIAINSIDE',
  secretAccessKey: registerSecret('secret-for-the-inside-1234'),
});

t.test(
  'reaches no internal address by any spelling, and refuses all with the same answer',
  async t => {
    await app.putEnvironment('acme');
    const configs = '/v1/environments/acme/export-configs';
    const stored = await app.call(configs, { method: 'POST', json: body(allowedEndpoint) });
    t.equal(stored.status, 201, stored.text);
    const unique = [...new Set(endpoints)];
    t.ok(unique.length >= 500, `${unique.length} spellings`);

    // A spelling that means a public address is a mistake of the test. It must not be dialled.
    const isPublicEndpoint = (endpoint: string) =>
      URL.canParse(endpoint) && isPublicAddress(new URL(endpoint).hostname.replace(/^\[|\]$/g, ''));
    t.strictSame(unique.filter(isPublicEndpoint), []);

    const refusals = new Set<string>();
    let refused = 0;
    let malformed = 0;
    const unexpected: string[] = [];
    const judge = (endpoint: string, call: string, answer: { status: number; text: string }) => {
      const { code, storageError, checks, detail, errors } = JSON.parse(answer.text);
      if (answer.status === 400 && code === 'validation_failed' && errors[0].path === '/endpoint') {
        malformed += 1;
        return;
      }
      const isValidation = call === 'validate';
      const isRefused = isValidation
        ? answer.status === 200 && JSON.parse(answer.text).valid === false
        : answer.status === 422 &&
          code === 'storage_validation_failed' &&
          storageError.code === 'endpoint_not_allowed';
      if (
        !isRefused ||
        checks.some(
          (check: { error: { code: string } | null }) =>
            check.error?.code !== 'endpoint_not_allowed',
        )
      ) {
        unexpected.push(
          `${call} ${JSON.stringify(endpoint)}: ${answer.status} ${answer.text.slice(0, 400)}`,
        );
        return;
      }
      refused += 1;
      refusals.add(JSON.stringify({ call, checks, storageError, detail }));
    };
    for (const endpoint of unique.filter(endpoint => !isPublicEndpoint(endpoint))) {
      judge(
        endpoint,
        'validate',
        await app.call(`${configs}/validate`, { method: 'POST', json: body(endpoint) }),
      );
      judge(endpoint, 'create', await app.call(configs, { method: 'POST', json: body(endpoint) }));
      judge(
        endpoint,
        'update',
        await app.call(`${configs}/${stored.json.id}`, {
          method: 'PATCH',
          json: { endpoint, secretAccessKey: 'secret-for-the-inside-1234' },
        }),
      );
    }
    t.strictSame(unexpected, []);
    t.equal(refusals.size, 3, `one refusal per route: ${[...refusals].join('\n')}`);
    t.ok(refused > 600 && malformed > 100, `${refused} refused, ${malformed} malformed`);
    t.equal(inside.requests.length, 0, 'the internal service received no request');
    console.error(
      `forbidden endpoints: ${unique.length} spellings, ${inside.requests.length} requests to the internal service`,
    );
    const list = await app.call(configs);
    t.strictSame(
      list.json.items.map((item: { endpoint: string }) => item.endpoint),
      [allowedEndpoint],
      'no forbidden endpoint was stored',
    );
  },
);

t.test('refuses a stored name that later resolves to an internal address', async t => {
  // The allow-list contains one address only. The test then moves the name to others.
  const { port } = new URL(allowedEndpoint);
  let address = '127.0.0.1';
  const other = await startTestApp(t, {
    adjust: dependencies => ({
      ...dependencies,
      clientEnvironment: {
        allowlist: parseEndpointAllowlist(['127.0.0.1/32']),
        resolve: (_name, _options, done) => done(null, [{ address, family: 4 }]),
      },
    }),
  });
  await other.putEnvironment('acme');
  const configs = '/v1/environments/acme/export-configs';
  const stored = await other.call(configs, {
    method: 'POST',
    json: body(`http://moves.example:${port}`),
  });
  t.equal(stored.status, 201, stored.text);
  const before = allowed.requests.length;
  for (const inner of ['127.0.0.2', '169.254.169.254', '10.0.0.1', '::1']) {
    address = inner;
    const { json } = await other.call(`${configs}/${stored.json.id}/validate`, {
      method: 'POST',
    });
    t.strictSame(
      json.checks.map((check: { error: { code: string } }) => check.error.code),
      ['endpoint_not_allowed', 'endpoint_not_allowed'],
      inner,
    );
  }
  t.equal(allowed.requests.length, before);
});
