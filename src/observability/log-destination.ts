import type { Writable } from 'node:stream';

export interface LogDestination {
  write(line: string): void;
  /** Resolves once everything is written, the reader is gone, or the time is over. */
  flush(timeoutMs: number): Promise<void>;
}

/** Bytes that wait for a slow reader. Lines beyond are dropped and counted. */
const maxWaitingBytes = 16 * 1024 * 1024;

/**
 * Writes log lines to a stream such as `process.stdout`, whatever becomes of its reader.
 * A reader that is gone (EPIPE) ends the writing, and a reader that stalls costs lines.
 * Neither blocks the process or its end.
 *
 * pino's own destination (sonic-boom 4) does both: at exit it repeats a write that fails with
 * EPIPE for ever, and a write to a full pipe holds a thread that the exit waits for.
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
        // Called after all writes before it.
        stream.write('', end);
      });
    },
  };
}
