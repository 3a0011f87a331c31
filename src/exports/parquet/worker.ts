/** Worker thread that converts one file. `convert-in-worker.ts` starts it. */
import { parentPort } from 'node:worker_threads';
import { createParquetEncoder } from './encode.ts';

/** Bytes of the CSV, or the number of its rows after the last bytes. */
export type Request = Uint8Array<ArrayBuffer> | number;
/** Bytes of the Parquet file that the request completed. */
export type Reply = Uint8Array<ArrayBuffer>[];

const encoder = createParquetEncoder();

parentPort?.on('message', (request: Request) => {
  const reply: Reply =
    typeof request === 'number' ? encoder.end(request) : encoder.add(Buffer.from(request.buffer));
  parentPort?.postMessage(
    reply,
    reply.map(({ buffer }) => buffer),
  );
});
