import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { isReady } from './service-process.ts';

export interface Balancer {
  /** `http://127.0.0.1:<port>` */
  readonly origin: string;
  readonly ready: ReadonlySet<number>;
  /** Requests that could not be forwarded, and answers that broke. The balancer never retries. */
  readonly failures: readonly string[];
  close(): Promise<void>;
}

/** Interval between two readiness probes. Real balancers probe every second or less often. */
const probeMs = 200;

/**
 * Spreads requests over the ports of 127.0.0.1 that are ready, over keep-alive connections. A port
 * that is not ready gets no new requests. Its connections stay open.
 */
export async function startBalancer(ports: readonly number[]): Promise<Balancer> {
  const agent = new http.Agent({ keepAlive: true });
  const ready = new Set<number>();
  const failures: string[] = [];
  const stopping = new AbortController();
  let turn = 0;

  const probing = ports.map(async port => {
    while (!stopping.signal.aborted) {
      if (await isReady(`http://127.0.0.1:${port}`)) ready.add(port);
      else ready.delete(port);
      await delay(probeMs, undefined, { signal: stopping.signal }).catch(() => {});
    }
  });

  const server = http.createServer((request, response) => {
    const able = [...ready];
    const port = able[turn++ % able.length];
    const fail = (why: string) => {
      failures.push(`${request.method} ${request.url} by ${port}: ${why}`);
      if (response.headersSent) response.destroy();
      else response.writeHead(502).end();
    };
    if (port === undefined) return fail('no service is ready');
    const { method, url, headers } = request;
    const forwarded = http.request({ host: '127.0.0.1', port, method, path: url, headers, agent });
    forwarded.once('response', answer => {
      const { connection: _connection, 'keep-alive': _keepAlive, ...passed } = answer.headers;
      response.writeHead(answer.statusCode ?? 502, passed);
      answer.once('error', error => fail(error.message));
      answer.pipe(response);
    });
    forwarded.on('error', error => fail(error.message));
    request.pipe(forwarded);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    ready,
    failures,
    async close() {
      stopping.abort();
      await Promise.all(probing);
      server.close();
      server.closeAllConnections();
      agent.destroy();
      await once(server, 'close');
    },
  };
}
