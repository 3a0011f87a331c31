import cors from '@fastify/cors';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

/** Time in seconds for which a browser may cache a preflight response. */
const maxAgeSeconds = 600;

const exposedHeaders = [
  ...['Accept-Ranges', 'Content-Disposition', 'Content-Length', 'Content-Range', 'ETag'],
  ...['Retry-After', 'X-Missing-Dates', 'X-Request-Id', 'X-Total-Rows'],
].join(', ');

const allowedHeaders = [
  ...['Authorization', 'Content-Digest', 'Content-Encoding', 'Content-Type', 'Range'],
  ...['X-Request-Id', 'If-Match', 'If-Modified-Since', 'If-None-Match', 'If-Range'],
  'If-Unmodified-Since',
];

/** Lets pages of these origins read responses and errors. Register this before all other hooks. */
export async function registerCors(
  app: FastifyInstance,
  origins: readonly string[],
): Promise<void> {
  if (origins.length === 0) return;
  const allowed = new Set(origins);
  // The plugin adds a route for preflights. It needs an access rule like any other route.
  app.addHook('onRoute', route => {
    if (route.method === 'OPTIONS' && route.url === '*') {
      route.config = { ...route.config, access: 'public' };
    }
  });
  await app.register(cors, {
    // With a list instead of a function, the plugin also sends headers to origins that are not
    // listed.
    origin: (origin, decide) =>
      decide(null, origin !== undefined && allowed.has(origin) ? origin : false),
    methods: ['GET', 'HEAD', 'PUT', 'POST', 'PATCH', 'DELETE'],
    allowedHeaders,
    exposedHeaders,
    maxAge: maxAgeSeconds,
    // The plugin would answer 400 in plain text.
    strictPreflight: false,
    logLevel: 'warn',
  });
  // Routes that set Vary themselves have overwritten the value of the plugin.
  app.addHook('onSend', async (_request, reply) => {
    const vary = String(reply.getHeader('vary') ?? '');
    if (!/\borigin\b/i.test(vary)) reply.header('vary', vary === '' ? 'Origin' : `${vary}, Origin`);
  });
}

/**
 * Sets the CORS headers of a response that reaches no hook, such as for a URL that cannot be
 * decoded.
 */
export function showWithoutHooks(
  origins: readonly string[],
  { headers: { origin } }: FastifyRequest,
  reply: FastifyReply,
): void {
  if (origins.length === 0) return;
  reply.header('vary', 'Origin');
  if (origin === undefined || !origins.includes(origin)) return;
  reply.headers({
    'access-control-allow-origin': origin,
    'access-control-expose-headers': exposedHeaders,
  });
}
