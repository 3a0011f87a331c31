import { type DestinationStream, type Logger, pino } from 'pino';
import type { Config } from '../config/config.ts';
import { createLogDestination } from './log-destination.ts';
import { redactLine, redactTokens, redactUrl } from './redact-tokens.ts';

/** Members of a log line that may hold a secret. They are redacted at the top three levels. */
const secretMembers = [
  'authorization',
  'secretAccessKey',
  'sessionToken',
  'secret_access_key',
  'adminToken',
  'key',
  'token',
  'sealed_secret',
  'failureWebhookSecret',
];

/**
 * Creates a logger that writes JSON lines. The default destination is stdout.
 * Redacts members that may hold a secret, in case one is logged by mistake. The operator token and
 * API keys are redacted in every line, because a caller may send them in any place.
 */
export function createLogger(
  config: Pick<Config, 'logLevel' | 'adminToken'>,
  destination: DestinationStream = createLogDestination(process.stdout),
): Logger {
  const secrets = [config.adminToken];
  const options = {
    level: config.logLevel,
    redact: {
      paths: secretMembers.flatMap(member => [member, `*.${member}`, `*.*.${member}`]),
      censor: '[redacted]',
    },
    serializers: {
      req: (request: { method: string; url: string; ip?: string }) => ({
        method: request.method,
        url: redactUrl(request.url, secrets),
        remoteAddress: request.ip,
      }),
      err: serializeError,
    },
  };
  return pino(options, { write: line => destination.write(redactLine(line, secrets)) });
}

/** Serializes an error without tokens. Messages of errors about a URL quote the URL. */
function serializeError(error: Error): unknown {
  const serialized = pino.stdSerializers.err(error);
  if (!(error instanceof Error)) return serialized;
  const { message, stack } = serialized;
  return Object.assign(serialized, { message: redactTokens(message), stack: redactTokens(stack) });
}
