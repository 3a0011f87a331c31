/**
 * Starts several readers of one answer. Each requests it again after its end, until the process is
 * killed.
 *
 *   node bench/read-again.ts <url> <readers>
 *
 * The variable TOKEN has the bearer token.
 */
import { readAnswer } from './read-answer.ts';

const [url = '', readers = '1'] = process.argv.slice(2);
await Promise.all(
  Array.from({ length: Number(readers) }, async () => {
    for (;;) await readAnswer(url);
  }),
);
