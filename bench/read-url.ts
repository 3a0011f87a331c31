/**
 * Reads an answer once; prints `{seconds, bytes}`.
 *   node bench/read-url.ts <url> [identity|gzip] [bytes per second]     with the bearer token in TOKEN
 */
import { readAnswer } from './read-answer.ts';

const [url = '', encoding, pace] = process.argv.slice(2);
console.log(
  JSON.stringify(await readAnswer(url, encoding, pace === undefined ? undefined : Number(pace))),
);
