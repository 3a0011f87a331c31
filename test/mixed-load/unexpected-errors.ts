import type { World } from './world.ts';

const errorLevel = 50;

/** Lines at error level that faults of the database bring with them. Anything else is unexpected. */
const expected: readonly { readonly msg: RegExp; readonly reason: string; readonly about: RegExp }[] = [];

export function unexpectedErrors(world: World): string[] {
  return world.history.flatMap(({ name, service }) =>
    service
      .logged()
      .filter(line => Number(line['level']) >= errorLevel || line['level'] === 0)
      .filter(line => {
        const text = JSON.stringify(line);
        return !expected.some(({ msg, about }) => msg.test(String(line['msg'])) && about.test(text));
      })
      .map(line => `${name}: ${JSON.stringify(line).slice(0, 1_500)}`),
  );
}
