const maxLoggedText = 300;

/**
 * Describes an error for the log. Errors of the S3 client hold the whole request, so only harmless
 * members are logged. The endpoint chooses the message, so it is truncated.
 */
export function describeForLog(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name, message, stack, cause } = error;
  const { code, Code } = error as { code?: unknown; Code?: unknown };
  return {
    type: cut(name),
    message: cut(message),
    stack: framesOf(stack),
    code: cut(Code ?? code),
    ...(cause instanceof Error && { cause: describeForLog(cause) }),
  };
}

function cut(value: unknown): unknown {
  return typeof value === 'string' ? value.slice(0, maxLoggedText) : undefined;
}

/** Returns the stack without its first line, which is the message. */
function framesOf(stack: unknown): string | undefined {
  if (typeof stack !== 'string') return undefined;
  const frames = stack
    .slice(-4_000)
    .split('\n')
    .filter(line => /^ {4}at /.test(line));
  return frames.slice(0, 20).join('\n');
}
