/** Small servers on loopback that misbehave in ways in which the real S3 server cannot. */
import { once } from 'node:events';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import type { Destination } from '../../../src/destinations/destination.ts';

export interface FakeEndpoint {
  readonly destination: Destination;
  /** `METHOD path?query` of each request so far. */
  readonly requests: string[];
  readonly close: () => Promise<void>;
}

export type Answer = (request: http.IncomingMessage, response: http.ServerResponse) => void;

export async function fakeEndpoint(answer: Answer): Promise<FakeEndpoint> {
  const requests: string[] = [];
  const server = http.createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    request.resume();
    answer(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    destination: destinationAt(server.address() as AddressInfo),
    requests,
    close: async () => {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

/** Starts a TCP server that passes each connection to `behave`, for faults below HTTP. */
export async function fakeSocket(behave: (socket: net.Socket) => void): Promise<FakeEndpoint> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer(socket => {
    sockets.add(socket);
    socket.on('error', () => {});
    behave(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    destination: destinationAt(server.address() as AddressInfo),
    requests: [],
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

function destinationAt({ port }: AddressInfo): Destination {
  return {
    provider: 'custom',
    bucket: 'acme',
    region: 'us-east-1',
    key: 'exports',
    endpoint: `http://127.0.0.1:${port}`,
  };
}

export function errorDocument(code: string, more = ''): string {
  return `<?xml version="1.0"?><Error><Code>${code}</Code><Message>internal-host-7 says no</Message>${more}</Error>`;
}

export const listDocument =
  '<?xml version="1.0"?><ListBucketResult><Name>acme</Name><KeyCount>0</KeyCount></ListBucketResult>';

export function createDocument(uploadId: string): string {
  return `<?xml version="1.0"?><InitiateMultipartUploadResult><UploadId>${uploadId}</UploadId></InitiateMultipartUploadResult>`;
}
