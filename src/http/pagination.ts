import { type TSchema, Type } from '@fastify/type-provider-typebox';
import type { ListPosition } from '../db/newest-first.sql.ts';
import { validationFailed } from '../shared/errors.ts';

const defaultLimit = 50;

export const pageQuery = Type.Object({
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 100,
      default: defaultLimit,
      description: 'Maximum number of items to return.',
    }),
  ),
  cursor: Type.Optional(
    Type.String({
      maxLength: 512,
      description: '`nextCursor` of the previous page. Omit it for the first page.',
    }),
  ),
});

export interface PageQuery {
  readonly limit?: number;
  readonly cursor?: string;
}

export function pageOf<T extends TSchema & { readonly title?: string }>(
  item: T,
  description: string,
) {
  return Type.Object(
    {
      items: Type.Array(item),
      nextCursor: Type.Union([Type.String(), Type.Null()], {
        description: 'Null on the last page.',
      }),
    },
    { description, ...(item.title !== undefined && { title: `${item.title}Page` }) },
  );
}

/** Order of a list: the parts of an item's position, and a check of the form of each part. */
export interface ListOrder<T> {
  readonly position: (item: T) => readonly string[];
  readonly parts: readonly ((part: string) => boolean)[];
}

export const isIdPart = (part: string): boolean => /^[A-Za-z0-9_-]{1,64}$/.test(part);
/**
 * Returns true for an instant in the form of `toISOString`. Date.parse alone accepts many other
 * forms.
 */
export function isInstantPart(part: string): boolean {
  const time = Date.parse(part);
  return !Number.isNaN(time) && /^\d{4}-/.test(part) && new Date(time).toISOString() === part;
}
/** Returns true for a calendar day, `YYYY-MM-DD`, in the years 0001 to 9999. */
export function isDatePart(part: string): boolean {
  if (!/^\d{4}-\d\d-\d\d$/.test(part) || part < '0001') return false;
  const time = Date.parse(part);
  // Date.parse accepts 31 February and returns 3 March.
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(part);
}

/**
 * Returns one page of a list with a fixed order. The cursor is the position of the last item of a
 * page. One item more than the limit is read, to find out whether a further page exists.
 * @throws AppError `validation_failed` for a cursor of another list
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

/**
 * Returns one page of a list that is ordered by creation, newest first.
 * @param positionOf instant (ISO 8601 UTC) and id of an item
 * @throws AppError `validation_failed` for a cursor of another list
 */
export async function readNewestFirst<T>(
  query: PageQuery,
  positionOf: (item: T) => { readonly createdAt: string; readonly id: string },
  fetch: (page: { before: ListPosition | null; limit: number }) => Promise<T[]>,
): Promise<{ items: T[]; nextCursor: string | null }> {
  const order: ListOrder<T> = {
    position: item => {
      const { createdAt, id } = positionOf(item);
      return [createdAt, id];
    },
    parts: [isInstantPart, isIdPart],
  };
  return await readPage(query, order, ({ after, limit }) =>
    fetch({ before: after && { createdAt: new Date(after[0] ?? ''), id: after[1] ?? '' }, limit }),
  );
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
    // Falls through to the error below, which is the same for every invalid cursor.
  }
  throw validationFailed([{ path: '/query/cursor', message: 'is not a cursor of this list' }]);
}
