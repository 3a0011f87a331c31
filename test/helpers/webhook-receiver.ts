import { execFileSync } from 'node:child_process';
import { createHmac, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { readBody } from './read-body.ts';
import { waitFor } from './wait-for.ts';

/** A message as it came over the socket. */
export interface Received {
  readonly path: string;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies whose shape is what they test
  readonly json: any;
  /** Checks the signature by the Standard Webhooks specification, without code of the service. */
  isSignedWith(secret: string): boolean;
}

export interface WebhookReceiver {
  readonly url: string;
  readonly received: readonly Received[];
  /** Sets the answer to later messages. Default: 204. */
  answer(behave: (response: http.ServerResponse, received: Received) => void): void;
  /** Waits until that many messages have arrived in total. */
  count(wanted: number, limitMs?: number): Promise<readonly Received[]>;
  close(): Promise<void>;
}

interface TestWithTeardown {
  teardown(handler: () => Promise<void>): void;
}

/** Starts a receiver on loopback, with TLS if a certificate is given. */
export async function startWebhookReceiver(
  t: TestWithTeardown,
  certificate: { key: string; cert: string } | null = null,
): Promise<WebhookReceiver> {
  const received: Received[] = [];
  let behave: Parameters<WebhookReceiver['answer']>[0] = response => response.writeHead(204).end();
  const listener = async (request: http.IncomingMessage, response: http.ServerResponse) => {
    const body = await readBody(request);
    if (body === null) return;
    const message = toReceived(request, body);
    received.push(message);
    behave(response, message);
  };
  const server =
    certificate === null ? http.createServer(listener) : https.createServer(certificate, listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  let closed: Promise<unknown> | null = null;
  const close = async () => {
    if (closed === null) {
      closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
    }
    await closed;
  };
  t.teardown(close);
  const scheme = certificate === null ? 'http' : 'https';
  return {
    url: `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}/hook?via=test`,
    received,
    answer: next => {
      behave = next;
    },
    count: (wanted, limitMs) =>
      waitFor(`${wanted} messages`, () => received, {
        isWanted: found => found.length >= wanted,
        limitMs,
      }),
    close,
  };
}

function toReceived({ method, url, headers }: http.IncomingMessage, body: string): Received {
  return {
    path: `${method} ${url}`,
    headers,
    body,
    get json() {
      return JSON.parse(body);
    },
    isSignedWith(secret) {
      const content = [headers['webhook-id'], headers['webhook-timestamp'], body].join('.');
      const [, encoded = ''] = /^whsec_(.+)$/.exec(secret) ?? [];
      const expected = createHmac('sha256', Buffer.from(encoded, 'base64'))
        .update(content)
        .digest();
      return String(headers['webhook-signature'])
        .split(' ')
        .map(part => Buffer.from(/^v1,(.+)$/.exec(part)?.[1] ?? '', 'base64'))
        .some(given => given.length === expected.length && timingSafeEqual(given, expected));
    },
  };
}

/** Creates a certificate for 127.0.0.1 that only the test trusts. */
export function makeCertificate(): { key: string; cert: string } {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-certificate-'));
  try {
    const files = ['-keyout', path.join(directory, 'key'), '-out', path.join(directory, 'cert')];
    const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    execFileSync('openssl', ['req', ...kind, '-days', '30', ...subject, ...files], {
      stdio: 'ignore',
    });
    const read = (name: string) => fs.readFileSync(path.join(directory, name), 'utf8');
    return { key: read('key'), cert: read('cert') };
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}
