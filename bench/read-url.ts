/**
 * Reads an answer once and prints `{seconds, bytes}`.
 *
 *   node bench/read-url.ts <url> [identity|gzip] [bytes per second]
 *
 * The variable TOKEN has the bearer token.
 */
import { readAnswer } from './read-answer.ts';

const [url = '', encoding, pace] = process.argv.slice(2);
console.log(
  JSON.stringify(await readAnswer(url, encoding, pace === undefined ? undefined : Number(pace))),
);
