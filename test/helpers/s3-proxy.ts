import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { s3Server } from './s3.ts';

/**
 * What to do with a request to the S3 server. `stall`: take it and never answer; `slow`: pass it on after 0.3 s; `lose`:
 * pass it on and break off instead of answering.
 */
export type Fate = 'pass' | 'slow' | 'slow-down' | 'stall' | 'reset' | 'lose';

export interface S3Proxy {
  readonly endpoint: string;
  /** Decides from now on. */
  decide(decision: (request: http.IncomingMessage) => Fate): void;
  /** `METHOD path?query` of each request so far. */
  readonly requests: readonly string[];
  close(): Promise<void>;
}

const slowDown =
  '<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message/></Error>';

/** Stands before a real S3 server, on loopback, and can misbehave. Signatures stay right: the Host goes through. */
export async function startS3Proxy(endpoint = s3Server().endpoint): Promise<S3Proxy> {
  const upstream = new URL(endpoint);
  const requests: string[] = [];
  let decide: (request: http.IncomingMessage) => Fate = () => 'pass';
  const server = http.createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    switch (decide(request)) {
      case 'stall':
        request.resume();
        return;
      case 'reset':
        request.socket.resetAndDestroy();
        return;
      case 'slow-down':
        request.resume();
        response.writeHead(503, { 'content-type': 'application/xml' }).end(slowDown);
        return;
      case 'slow':
        setTimeout(() => forward(upstream, request, response), 300);
        return;
      case 'lose':
        forward(upstream, request, response, () => request.socket.resetAndDestroy());
        return;
      case 'pass':
        forward(upstream, request, response);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    decide: decision => {
      decide = decision;
    },
    async close() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

function forward(
  upstream: URL,
  request: http.IncomingMessage,
  response: http.ServerResponse,
  onAnswer = (answer: http.IncomingMessage) => giveBack(answer, response),
): void {
  const { method, url, headers } = request;
  const { hostname, port } = upstream;
  const forwarded = http.request(
    { hostname, port, method, path: url, headers, agent: false },
    onAnswer,
  );
  // Whoever goes away takes the other side along.
  response.once('close', () => forwarded.destroy());
  pipeline(request, forwarded).catch(() => response.destroy());
}

function giveBack(answer: http.IncomingMessage, response: http.ServerResponse): void {
  response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
  pipeline(answer, response).catch(() => response.destroy());
}
