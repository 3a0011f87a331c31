import type { FastifyInstance } from 'fastify';
import createRouter, { type HTTPMethod } from 'find-my-way';
import { AppError } from '../shared/errors.ts';

/**
 * Answers 405 with `Allow` to a method that a known path does not have. Register it before all
 * routes.
 *
 * The answer is the same with and without a token. It depends on the shape of the path alone, which
 * `/openapi.yaml` publishes, and never on what exists in the database. It comes before the body is
 * read.
 *
 * @param maxParamLength the same limit as that of the app's own router
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
      new AppError('method_not_allowed', `This path has the methods ${allow}.`, {
        headers: { allow },
      }),
    );
  });
}
