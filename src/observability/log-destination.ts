import type { Writable } from 'node:stream';

export interface LogDestination {
  write(line: string): void;
  /** Resolves when all lines are written, when the stream has failed, or after `timeoutMs`. */
  flush(timeoutMs: number): Promise<void>;
}

/** Maximum bytes that wait for a slow reader. Further lines are dropped and counted. */
const maxWaitingBytes = 16 * 1024 * 1024;

/**
 * Writes log lines to a stream such as `process.stdout`. After a write error (EPIPE) it writes
 * nothing more. While the reader stalls, it drops lines beyond the limit. Neither case blocks the
 * process or its exit.
 *
 * pino's own destination (sonic-boom 4) blocks in both cases. At exit it retries a write that fails
 * with EPIPE without end. A write to a full pipe occupies a thread that the exit waits for.
 */
export function createLogDestination(
  stream: Writable,
  limitBytes: number = maxWaitingBytes,
): LogDestination {
  let isBroken = false;
  let dropped = 0;
  stream.on('error', () => {
    isBroken = true;
  });
  stream.on('drain', () => {
    if (dropped === 0 || isBroken) return;
    const line = { level: 40, time: Date.now(), droppedLines: dropped, msg: 'log lines dropped' };
    dropped = 0;
    stream.write(`${JSON.stringify(line)}\n`);
  });
  return {
    write(line) {
      if (isBroken) return;
      if (stream.writableLength + line.length > limitBytes) dropped += 1;
      else stream.write(line);
    },
    async flush(timeoutMs) {
      if (isBroken || stream.writableLength === 0) return;
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, timeoutMs);
        const end = () => {
          clearTimeout(timer);
          resolve();
        };
        stream.once('error', end);
        // The callback runs after all earlier writes.
        stream.write('', end);
      });
    },
  };
}
