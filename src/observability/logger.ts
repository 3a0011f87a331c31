import { type DestinationStream, type Logger, pino } from 'pino';
import type { Config } from '../config/config.ts';
import { createLogDestination } from './log-destination.ts';

/** Members of a log line that may hold a secret, at any of three levels. */
const secretMembers = [
  'authorization',
  'secretAccessKey',
  'secret_access_key',
  'adminToken',
  'key',
  'token',
  'sealed_secret',
  'failureWebhookSecret',
];

/**
 * Creates a logger that writes JSON lines, by default to stdout.
 * Replaces members that may hold a secret, in case one is logged by mistake.
 */
export function createLogger(
  config: Pick<Config, 'logLevel'>,
  destination: DestinationStream = createLogDestination(process.stdout),
): Logger {
  const options = {
    level: config.logLevel,
    redact: {
      paths: secretMembers.flatMap(member => [member, `*.${member}`, `*.*.${member}`]),
      censor: '[redacted]',
    },
    serializers: {
      req: (request: { method: string; url: string; ip?: string }) => ({
        method: request.method,
        // A download token in the path opens a file.
        url: request.url.replace(/(\/v1\/downloads\/)[^/?]+/, '$1[redacted]'),
        remoteAddress: request.ip,
      }),
      err: pino.stdSerializers.err,
    },
  };
  return pino(options, destination);
}
