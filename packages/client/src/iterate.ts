import type { Api } from './generated/sdk.gen.ts';

interface Page<Item> {
  readonly items: readonly Item[];
  readonly nextCursor: string | null;
}

type Answer<Name extends keyof Api> = Api[Name] extends (options: never) => Promise<infer Body>
  ? NonNullable<Body>
  : never;

/** Name of an operation that answers with pages, such as `listRuns`. */
export type ListOperation = {
  [Name in keyof Api]: Answer<Name> extends Page<unknown> ? Name : never;
}[keyof Api];

export type ListItem<Name extends ListOperation> =
  Answer<Name> extends Page<infer Item> ? Item : never;

type ListMethod<Item> = (options: object) => Promise<Page<Item>>;

/** Yields the items of all pages. Requests a page when its first item is needed. */
export async function* iterate<Name extends ListOperation>(
  api: Api,
  name: Name,
  ...[options]: Parameters<Api[Name]>
): AsyncGenerator<ListItem<Name>, void, void> {
  let cursor: string | null = null;
  const list = (query: object) =>
    (api[name] as unknown as ListMethod<ListItem<Name>>).call(api, {
      ...options,
      query: { ...options?.query, ...query },
    });
  do {
    const page: Page<ListItem<Name>> = await list(cursor === null ? {} : { cursor });
    yield* page.items;
    cursor = page.nextCursor;
  } while (cursor !== null);
}
