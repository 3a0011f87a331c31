import { once } from 'node:events';
import { createServer } from 'node:net';

/**
 * Ports below those that Linux gives to outgoing connections and to servers without a fixed port.
 * Many start while a program waits for its port, and would take it.
 */
const lowest = 12_000;
const highest = 31_999;

/**
 * Returns a random port of 127.0.0.1 that was free a moment ago. Another process may take it
 * meanwhile.
 */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < 100; tries += 1) {
    const port = lowest + Math.floor(Math.random() * (highest - lowest + 1));
    if (await isFree(port)) return port;
  }
  throw new Error(`No port from ${lowest} to ${highest} of 127.0.0.1 was free in 100 tries`);
}

/** Returns true if a server can listen at this port of 127.0.0.1. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return false;
  }
  server.close();
  await once(server, 'close');
  return true;
}
