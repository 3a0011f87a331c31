import type { FastifyInstance } from 'fastify';
import { validationFailed } from '../shared/errors.ts';

/**
 * Largest JSON body in bytes. The largest useful body is an export config whose every field has its
 * maximum length: about 12 KiB.
 */
export const jsonBodyLimitBytes = 16 * 1024;

/**
 * Maximum number of values in a body, nested ones included. The largest useful body has about 50.
 */
export const maxValues = 200;

/** Maximum nesting of objects and arrays. Useful bodies have at most 3. */
const maxDepth = 8;

/**
 * Parses JSON bodies and bounds their structure before the schemas see them. The validator compiles
 * an error for each unknown property, and hashes the items of some arrays recursively.
 */
export function registerJsonBodies(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, text, done) => {
    parse(request, text as string, (error, body) => {
      const problem = error === null ? findExcess(body) : null;
      if (problem !== null) done(validationFailed([{ path: '', message: problem }]));
      else done(error, body);
    });
  });
}

/**
 * Returns a message about the limit that the body exceeds, else null. Visits no more values than
 * the limit.
 */
function findExcess(body: unknown): string | null {
  let count = 0;
  let level = [body];
  for (let depth = 0; level.length > 0; depth += 1) {
    count += level.length;
    if (count > maxValues) return `has more than ${maxValues} values`;
    if (depth > maxDepth) return `is nested more than ${maxDepth} levels deep`;
    const next: unknown[] = [];
    for (const value of level) {
      if (typeof value !== 'object' || value === null) continue;
      const inner = Array.isArray(value) ? value : Object.values(value);
      if (count + next.length + inner.length > maxValues) {
        return `has more than ${maxValues} values`;
      }
      next.push(...inner);
    }
    level = next;
  }
  return null;
}
