/**
 * So many readers of one answer who begin again as soon as they have it, until the process is ended.
 *   node bench/read-again.ts <url> <readers>     with the bearer token in TOKEN
 */
import { readAnswer } from './read-answer.ts';

const [url = '', readers = '1'] = process.argv.slice(2);
await Promise.all(
  Array.from({ length: Number(readers) }, async () => {
    for (;;) await readAnswer(url);
  }),
);
