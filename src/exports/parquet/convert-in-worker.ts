import { getCompileCacheDir } from 'node:module';
import { Worker } from 'node:worker_threads';
import { mapAhead } from '../../shared/map-ahead.ts';
import type { Reply, Request } from './worker.ts';

/** Heap limits of a worker in MiB. A worker that needs more fails, and the process continues. */
const resourceLimits = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 16 };

/**
 * Converts the CSV of a file to Parquet in a worker thread, because a row takes tens of
 * microseconds. Reads at most two pieces of CSV ahead of the reader. The worker ends with the
 * generator.
 *
 * @param rowCount number of rows of the CSV
 * @param signal ends the worker at once, also while the reader is busy
 * @throws the reason of the signal; Error if the CSV is malformed or has another number of rows
 */
export async function* convertInWorker(
  csv: AsyncIterable<Buffer>,
  rowCount: number,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const worker = startWorker(signal);
  try {
    const replies = mapAhead(csv, 1, bytes => worker.ask(new Uint8Array(bytes)));
    for await (const reply of replies) yield* buffersOf(reply);
    yield* buffersOf(await worker.ask(rowCount));
  } finally {
    await worker.end();
  }
}

function startWorker(signal: AbortSignal) {
  signal.throwIfAborted();
  const compileCache = getCompileCacheDir();
  const worker = new Worker(new URL('./worker.ts', import.meta.url), {
    name: 'parquet',
    resourceLimits,
    // Flags such as `--import` are for the main thread. The environment contains secrets.
    execArgv: [],
    // The cache halves the time in which a worker starts.
    env: compileCache === undefined ? {} : { NODE_COMPILE_CACHE: compileCache },
  });
  /** Requests without a reply. The worker replies in order. */
  const asked: PromiseWithResolvers<Reply>[] = [];
  let failure: Error | null = null;
  const fail = (error: Error) => {
    failure ??= error;
    for (const { reject } of asked.splice(0)) reject(failure);
  };
  const abort = () => {
    fail(signal.reason);
    void worker.terminate();
  };
  worker.on('message', (reply: Reply) => asked.shift()?.resolve(reply));
  worker.on('error', fail);
  worker.on('exit', code => fail(new Error(`The Parquet worker ended early with code ${code}.`)));
  signal.addEventListener('abort', abort, { once: true });
  return {
    async ask(request: Request): Promise<Reply> {
      if (failure !== null) throw failure;
      const reply = Promise.withResolvers<Reply>();
      asked.push(reply);
      // Small buffers share one allocation, so the caller passes a copy that can be transferred.
      worker.postMessage(request, typeof request === 'number' ? [] : [request.buffer]);
      return await reply.promise;
    },
    async end(): Promise<void> {
      signal.removeEventListener('abort', abort);
      await worker.terminate();
    },
  };
}

function* buffersOf(reply: Reply): Generator<Buffer> {
  for (const { buffer } of reply) yield Buffer.from(buffer);
}
