import cors from '@fastify/cors';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

/** How long a browser may remember the answer to a preflight. */
const maxAgeSeconds = 600;

const exposedHeaders = [
  'Content-Disposition',
  'X-Total-Rows',
  'X-Missing-Dates',
  'X-Request-Id',
  'Retry-After',
].join(', ');

/** Lets pages of these origins read answers, errors too. To be registered first, so that its headers are on every answer. */
export async function registerCors(
  app: FastifyInstance,
  origins: readonly string[],
): Promise<void> {
  if (origins.length === 0) return;
  const allowed = new Set(origins);
  // The route that the plugin brings for preflights; it has to say who may call it like any other.
  app.addHook('onRoute', route => {
    if (route.method === 'OPTIONS' && route.url === '*') {
      route.config = { ...route.config, access: 'public' };
    }
  });
  await app.register(cors, {
    // A function, because with a list the plugin shows headers to origins that are not on it, too.
    origin: (origin, decide) =>
      decide(null, origin !== undefined && allowed.has(origin) ? origin : false),
    methods: ['GET', 'HEAD', 'PUT', 'POST', 'PATCH', 'DELETE'],
    allowedHeaders: ['Authorization', 'Content-Type', 'Content-Encoding', 'X-Request-Id'],
    exposedHeaders,
    maxAge: maxAgeSeconds,
    // It would answer 400 in plain text.
    strictPreflight: false,
    logLevel: 'warn',
  });
  // Routes that say what else their answer depends on have overwritten it.
  app.addHook('onSend', async (_request, reply) => {
    const vary = String(reply.getHeader('vary') ?? '');
    if (!/\borigin\b/i.test(vary)) reply.header('vary', vary === '' ? 'Origin' : `${vary}, Origin`);
  });
}

/** The same for an answer that comes before any hook, as to a URL that cannot be decoded. */
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
