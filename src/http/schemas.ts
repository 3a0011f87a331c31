import { Format, type Static, type TSchema, Type } from '@fastify/type-provider-typebox';
import { fileFormats } from '../shared/file-format.ts';
import { isDatePart } from './pagination.ts';

/** Registers the format `date` for calendar days. TypeBox's own format accepts 31 February. */
export function registerFormats(): void {
  Format.Set('date', text => isDatePart(text));
}

export function literals<const T extends string>(values: readonly T[], options: object = {}) {
  return Type.Unsafe<T>({ type: 'string', enum: [...values], ...options });
}

export const fileFormat = literals(fileFormats, {
  title: 'FileFormat',
  description: 'Format of the file. Default: `csv`.',
  examples: ['csv'],
});

export function instant(description = 'ISO 8601, UTC.') {
  return Type.String({ format: 'date-time', description, examples: ['2026-03-02T00:00:00.000Z'] });
}

export function date(description = 'A UTC date.') {
  return Type.String({ format: 'date', description, examples: ['2026-03-01'] });
}

/**
 * Returns a schema that validates and serialises as before, and that `openapi.yaml` shows as
 * `document`. For schemas that would be slower or would refuse old data if the code used them.
 */
export function documentedAs<T extends TSchema>(schema: T, document: object) {
  return Type.Unsafe<Static<T>>({ ...schema, 'x-document': document });
}

export function nullable<T extends ReturnType<typeof Type.String>>(schema: T) {
  return Type.Unsafe<string | null>({ ...schema, type: ['string', 'null'] });
}
