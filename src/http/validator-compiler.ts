import { type TSchema, TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox';
import type { FastifySchemaCompiler } from 'fastify';
import { Settings } from 'typebox/system';
import { lazily } from '../shared/lazily.ts';
import { maxValues } from './json-bodies.ts';

/**
 * Lets the validator report an error for every value of a body. Its default of 8 is used up by
 * unknown properties, and then it does not name them.
 */
export function configureValidator(): void {
  Settings.Set({ maxErrors: 2 * maxValues });
}

/**
 * Returns validators of route schemas. Each is compiled at its first request, because compiling all
 * of them takes a large part of the CPU time in which the service starts.
 *
 * A whole number in a query must be in decimal digits: TypeBox alone also converts `1.5`, `0x10`,
 * `1e2`, `+5` and an empty text to an integer. Every such property needs a `maximum` that is exact
 * as a number.
 */
export const compileValidator: FastifySchemaCompiler<TSchema> = route => {
  const validate = lazily(() => TypeBoxValidatorCompiler(route));
  if (route.httpPart !== 'querystring') return validate;
  const integers = integerProperties(route.schema);
  return (query: Readonly<Record<string, unknown>>) => {
    const malformed = integers.filter(name => Object.hasOwn(query, name) && !isDigits(query[name]));
    if (malformed.length === 0) return validate(query);
    return {
      error: malformed.map(name => ({
        keyword: 'type',
        instancePath: `/${name}`,
        schemaPath: `#/properties/${name}`,
        params: {},
        message: 'must be a whole number in decimal digits',
      })),
    };
  };
};

function integerProperties(schema: TSchema): string[] {
  const { properties = {} } = schema as { properties?: Record<string, { type?: unknown }> };
  return Object.keys(properties).filter(name => properties[name]?.type === 'integer');
}

function isDigits(value: unknown): boolean {
  return typeof value === 'string' && /^\d+$/.test(value);
}
