import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { s3Server } from './s3.ts';

/**
 * What the proxy does with a request to the S3 server.
 *
 * - `pass`: forwards it.
 * - `slow`: forwards it after 0.3 s.
 * - `slow-down`: answers 503 SlowDown.
 * - `invalid-request`: answers 400 InvalidRequest.
 * - `deny`: answers 403 AccessDenied.
 * - `stall`: reads it and never answers.
 * - `reset`: resets the connection.
 * - `lose`: forwards it and resets the connection instead of answering.
 * - `damage`: forwards it with its first byte changed.
 */
export type Fate =
  | 'pass'
  | 'slow'
  | 'slow-down'
  | 'invalid-request'
  | 'deny'
  | 'stall'
  | 'reset'
  | 'lose'
  | 'damage';

export interface S3Proxy {
  readonly endpoint: string;
  /** Sets the function that decides about later requests. */
  decide(decision: (request: http.IncomingMessage) => Fate): void;
  /** `METHOD path?query` of each request so far. */
  readonly requests: readonly string[];
  close(): Promise<void>;
}

const errorDocument = (code: string) =>
  `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message/></Error>`;

/**
 * Starts a proxy that forwards to a real S3 server on loopback and injects faults. It keeps the
 * Host header, so signatures remain valid.
 */
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
        response.writeHead(503, { 'content-type': 'application/xml' });
        response.end(errorDocument('SlowDown'));
        return;
      case 'invalid-request':
        request.resume();
        response.writeHead(400, { 'content-type': 'application/xml' });
        response.end(errorDocument('InvalidRequest'));
        return;
      case 'deny':
        request.resume();
        response.writeHead(403, { 'content-type': 'application/xml' });
        response.end(errorDocument('AccessDenied'));
        return;
      case 'slow':
        setTimeout(() => forward(upstream, request, response), 300);
        return;
      case 'lose':
        forward(upstream, request, response, () => request.socket.resetAndDestroy());
        return;
      case 'damage':
        forward(upstream, request, response, undefined, damageFirstByte());
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
  through: Transform = new PassThrough(),
): void {
  const { method, url, headers } = request;
  const { hostname, port } = upstream;
  const forwarded = http.request(
    { hostname, port, method, path: url, headers, agent: false },
    onAnswer,
  );
  // A client that disconnects also closes the connection to the server.
  response.once('close', () => forwarded.destroy());
  pipeline(request, through, forwarded).catch(() => response.destroy());
}

function damageFirstByte(): Transform {
  let isFirst = true;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      if (isFirst) chunk[0] = (chunk[0] ?? 0) ^ 1;
      isFirst = false;
      done(null, chunk);
    },
  });
}

function giveBack(answer: http.IncomingMessage, response: http.ServerResponse): void {
  response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
  pipeline(answer, response).catch(() => response.destroy());
}
