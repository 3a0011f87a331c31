import { type TSchema, Type } from '@fastify/type-provider-typebox';
import { validationFailed } from '../shared/errors.ts';

const defaultLimit = 50;

export const pageQuery = Type.Object({
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 100,
      default: defaultLimit,
      description: 'The most items to return.',
    }),
  ),
  cursor: Type.Optional(
    Type.String({
      maxLength: 512,
      description: '`nextCursor` of the page before; absent for the first page.',
    }),
  ),
});

export interface PageQuery {
  readonly limit?: number;
  readonly cursor?: string;
}

export function pageOf<T extends TSchema>(item: T, description: string) {
  return Type.Object(
    {
      items: Type.Array(item),
      nextCursor: Type.Union([Type.String(), Type.Null()], {
        description: 'null on the last page.',
      }),
    },
    { description },
  );
}

/** The order of a list: what an item's position is made of, and how each part of one must look. */
export interface ListOrder<T> {
  readonly position: (item: T) => readonly string[];
  readonly parts: readonly ((part: string) => boolean)[];
}

export const isIdPart = (part: string): boolean => /^[A-Za-z0-9_-]{1,64}$/.test(part);
/** As `toISOString` writes it: Date.parse alone takes a great deal for an instant. */
export function isInstantPart(part: string): boolean {
  const time = Date.parse(part);
  return !Number.isNaN(time) && /^\d{4}-/.test(part) && new Date(time).toISOString() === part;
}
/** A day of the calendar, `YYYY-MM-DD`, years 0001 to 9999. */
export function isDatePart(part: string): boolean {
  if (!/^\d{4}-\d\d-\d\d$/.test(part) || part < '0001') return false;
  const time = Date.parse(part);
  // Date.parse takes 31 February for 3 March.
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(part);
}

/**
 * One page of a list that is read in a fixed order. The cursor is the position of the page's last item. One item
 * more than the limit is asked for, so that the last page is known to be the last.
 * @throws AppError `validation_failed` for a cursor that this list did not give
 */
export async function readPage<T>(
  query: PageQuery,
  order: ListOrder<T>,
  fetch: (page: { after: readonly string[] | null; limit: number }) => Promise<T[]>,
): Promise<{ items: T[]; nextCursor: string | null }> {
  const limit = query.limit ?? defaultLimit;
  const after = query.cursor === undefined ? null : decodeCursor(query.cursor, order.parts);
  const found = await fetch({ after, limit: limit + 1 });
  const items = found.slice(0, limit);
  const last = items.at(-1);
  const more = found.length > limit && last !== undefined;
  return { items, nextCursor: more ? encodeCursor(order.position(last)) : null };
}

function encodeCursor(position: readonly string[]): string {
  return Buffer.from(JSON.stringify(position)).toString('base64url');
}

function decodeCursor(cursor: string, parts: ListOrder<never>['parts']): readonly string[] {
  try {
    const position: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    if (
      Array.isArray(position) &&
      position.length === parts.length &&
      parts.every((isPart, index) => typeof position[index] === 'string' && isPart(position[index]))
    ) {
      return position;
    }
  } catch {
    // Falls through to the one answer for every cursor that is not ours.
  }
  throw validationFailed([{ path: '/query/cursor', message: 'is not a cursor of this list' }]);
}
