import type { FastifyInstance } from 'fastify';
import createRouter, { type HTTPMethod } from 'find-my-way';
import { AppError } from '../shared/errors.ts';

/**
 * Answers 405 with `Allow` if a known path lacks the method. Register this before all routes.
 *
 * The answer does not depend on the token or on the database. It depends only on the form of the
 * path, which `/openapi.yaml` publishes. It is sent before the body is read.
 *
 * @param maxParamLength limit of the app's own router
 */
export function registerAllowedMethods(app: FastifyInstance, maxParamLength: number): void {
  const router = createRouter({ maxParamLength });
  const methods = new Set<HTTPMethod>();
  app.addHook('onRoute', ({ method, url }) => {
    // CORS adds this route for preflights. It matches every path.
    if (url === '*') return;
    for (const name of [method].flat() as HTTPMethod[]) {
      methods.add(name);
      router.on(name, url, () => undefined);
    }
  });
  app.addHook('onRequest', (request, _reply, done) => {
    if (!request.is404) return done();
    const allowed = [...methods].filter(name => router.find(name, request.raw.url ?? '') !== null);
    if (allowed.length === 0) return done();
    const allow = allowed.toSorted().join(', ');
    done(
      new AppError('method_not_allowed', `This path allows ${allow}.`, {
        headers: { allow },
      }),
    );
  });
}
