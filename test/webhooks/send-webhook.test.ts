import { once } from 'node:events';
import net, { type AddressInfo, isIP, type LookupFunction } from 'node:net';
import t, { type Test } from 'tap';
import { parseEndpointAllowlist } from '../../src/outbound/endpoint-allowlist.ts';
import { sendWebhook } from '../../src/webhooks/send-webhook.ts';
import { makeWebhookSecret } from '../../src/webhooks/signature.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { makeCertificate, startWebhookReceiver } from '../helpers/webhook-receiver.ts';
import { forbiddenHosts } from '../outbound/forbidden-hosts.ts';

/** Single deliveries to receivers that behave well or badly. */

t.setTimeout(600_000);

const loopback = parseEndpointAllowlist(['127.0.0.1']);
const secret = registerSecret(makeWebhookSecret());
const message = { id: 'message-1', body: '{"type":"ü"}' };
const sentAt = new Date('2026-03-02T10:00:00.900Z');
const send = (
  url: string,
  environment: Parameters<typeof sendWebhook>[0] = { allowlist: loopback },
) => sendWebhook(environment, url, secret, message, sentAt);

t.test('sends a signed POST request', async t => {
  const receiver = await startWebhookReceiver(t);
  t.strictSame(await send(receiver.url), { delivered: true, status: 204, error: null });
  const [received] = receiver.received;
  t.match(received, { path: 'POST /hook?via=test', body: message.body });
  t.match(received?.headers, {
    'content-type': 'application/json',
    'user-agent': 'warehouse-export',
    'webhook-id': 'message-1',
    'webhook-timestamp': '1772445600',
  });
  t.equal(received?.isSignedWith(secret), true);
  t.equal(received?.isSignedWith(registerSecret(makeWebhookSecret())), false);
});

t.test('verifies the certificate of the receiver', async t => {
  const certificate = makeCertificate();
  const receiver = await startWebhookReceiver(t, certificate);
  t.match(await send(receiver.url), { delivered: false, error: { code: 'tls_error' } });
  const trusted = { allowlist: loopback, extraCa: certificate.cert };
  t.match(await send(receiver.url, trusted), { delivered: true, status: 204 });
  const named = {
    ...trusted,
    allowlist: parseEndpointAllowlist(['127.0.0.1/32']),
    resolve: resolver({ 'other.example': ['127.0.0.1'] }),
  };
  const elsewhere = receiver.url.replace('127.0.0.1', 'other.example');
  t.match(
    await send(elsewhere, named),
    { error: { code: 'tls_error' } },
    'certificate of another host',
  );
  const plain = await startWebhookReceiver(t);
  t.match(await send(plain.url.replace('http:', 'https:')), { error: { code: 'tls_error' } });
  t.match(await send(receiver.url.replace('https:', 'http:')), { delivered: false });
  t.equal(receiver.received.length, 1);
});

t.test('treats only a 2xx answer as delivered', async t => {
  const receiver = await startWebhookReceiver(t);
  for (const status of [200, 201, 202, 204, 299]) {
    receiver.answer(response => response.writeHead(status).end());
    t.strictSame(await send(receiver.url), { delivered: true, status, error: null });
  }
  for (const status of [400, 401, 404, 410, 429, 500, 503, 999]) {
    receiver.answer(response => response.writeHead(status).end('internal host name'));
    const result = await send(receiver.url);
    t.match(result, { delivered: false, status, error: { code: 'not_accepted' } });
    t.notMatch(JSON.stringify(result), 'internal host name');
  }
});

t.test('does not follow redirects', async t => {
  const inside = await startWebhookReceiver(t);
  const receiver = await startWebhookReceiver(t);
  for (const status of [301, 302, 303, 307, 308]) {
    receiver.answer(response => response.writeHead(status, { location: inside.url }).end());
    const result = await send(receiver.url);
    t.match(result, {
      delivered: false,
      status,
      error: { code: 'not_accepted', message: /not followed/ },
    });
  }
  t.equal(inside.received.length, 0);
});

t.test('reports the error of a receiver that misbehaves', async t => {
  const raw = async (t: Test, behave: (socket: net.Socket) => void) => {
    const sockets = new Set<net.Socket>();
    const server = net.createServer(socket => {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.once('data', () => behave(socket));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  };
  const table: [string, string, (socket: net.Socket) => void][] = [
    ['garbage', 'not_http', socket => socket.end('\u0000\u0001 no HTTP at all\r\n\r\n')],
    ['SMTP', 'not_http', socket => socket.end('220 mail.internal ESMTP\r\n')],
    [
      'an endless header',
      'not_http',
      socket => socket.write(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(99_999)}`),
    ],
    ['closes the connection', 'endpoint_unreachable', socket => socket.destroy()],
    ['resets', 'endpoint_unreachable', socket => socket.resetAndDestroy()],
    [
      'another protocol',
      'not_http',
      socket =>
        socket.write(
          'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n',
        ),
    ],
  ];
  for (const [name, code, behave] of table) {
    const result = await send(await raw(t, behave));
    t.match(result, { delivered: false, status: null, error: { code } }, name);
    t.notMatch(JSON.stringify(result), 'mail.internal');
  }
  // The status was received, so an incomplete body does not matter.
  const broken = await raw(t, socket =>
    socket.end('HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx'),
  );
  t.match(await send(broken), { delivered: true, status: 200 });
});

t.test('reports a receiver that does not listen as unreachable', async t => {
  const receiver = await startWebhookReceiver(t);
  await receiver.close();
  t.match(await send(receiver.url), {
    delivered: false,
    status: null,
    error: { code: 'endpoint_unreachable' },
  });
});

t.test('cuts off slow and endless answers', async t => {
  const silent = await startWebhookReceiver(t);
  silent.answer(() => {});
  const dripping = await startWebhookReceiver(t);
  dripping.answer(response => {
    const timer = setInterval(() => response.write('x'), 200);
    response.writeHead(200).once('close', () => clearInterval(timer));
  });
  const endless = await startWebhookReceiver(t);
  let written = 0;
  endless.answer(response => {
    const more = () => {
      written += 64 * 1024;
      if (!response.destroyed) response.write(Buffer.alloc(64 * 1024), more);
    };
    response.writeHead(200);
    more();
  });
  const interim = await startWebhookReceiver(t);
  interim.answer(response => {
    const timer = setInterval(() => response.writeProcessing(), 200);
    response.once('close', () => clearInterval(timer));
  });
  const startedAt = performance.now();
  const results = await Promise.all(
    [silent, dripping, endless, interim].map(receiver => send(receiver.url)),
  );
  const tookMs = performance.now() - startedAt;
  t.match(
    results.map(({ delivered, error }) => error?.code ?? delivered),
    ['timeout', true, true, 'timeout'],
  );
  t.ok(tookMs < 19_000, `${Math.round(tookMs)} ms`);
  t.ok(written < 20 * 1024 * 1024, `at most 20 MiB written, ${written} bytes`);
});

t.test('does not connect to a forbidden address in any spelling', async t => {
  const nothingListed = {
    allowlist: parseEndpointAllowlist([]),
    resolve: resolver({}),
  };
  const inside = await startWebhookReceiver(t);
  const { port } = new URL(inside.url);
  const refusals = new Set<string>();
  const hosts = forbiddenHosts();
  for (const host of hosts) {
    for (const scheme of ['https', 'http']) {
      const result = await send(`${scheme}://${host}:${port}/`, nothingListed);
      if (result.error?.code !== 'endpoint_not_allowed') t.fail(`${scheme}://${host}`);
      refusals.add(JSON.stringify(result));
    }
  }
  t.ok(hosts.length >= 400, `${hosts.length} spellings`);
  t.equal(inside.received.length, 0);

  const names = {
    'inside.example': ['127.0.0.1'],
    'mixed.example': ['8.8.8.8', '127.0.0.1'],
    'mapped.example': ['::ffff:127.0.0.1'],
    'metadata.example': ['169.254.169.254'],
    'empty.example': [],
  };
  const named = { ...nothingListed, resolve: resolver(names) };
  for (const name of [...Object.keys(names), 'absent.example']) {
    refusals.add(JSON.stringify(await send(`https://${name}:${port}/`, named)));
  }
  t.equal(refusals.size, 1, 'a name that does not resolve gets the same answer');
  t.equal(inside.received.length, 0);
});

t.test('rejects a name that moves to a forbidden address between two tries', async t => {
  const receiver = await startWebhookReceiver(t);
  const names = { 'moves.example': ['127.0.0.1'] };
  const environment = {
    allowlist: parseEndpointAllowlist(['127.0.0.1/32']),
    resolve: resolver(names),
  };
  const url = receiver.url.replace('127.0.0.1', 'moves.example');
  t.match(await send(url, environment), { delivered: true });
  names['moves.example'] = ['127.0.0.2'];
  t.match(await send(url, environment), { error: { code: 'endpoint_not_allowed' } });
  t.equal(receiver.received.length, 1);
});

function resolver(names: Readonly<Record<string, readonly string[]>>): LookupFunction {
  return (name, _options, done) => {
    const found = names[name];
    if (found === undefined) return done(Object.assign(new Error(name), { code: 'ENOTFOUND' }), []);
    done(
      null,
      found.map(address => ({ address, family: isIP(address) })),
    );
  };
}
