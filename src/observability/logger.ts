import { type DestinationStream, type Logger, pino } from 'pino';
import type { Config } from '../config/config.ts';

/** Members that may hold a secret, wherever they turn up in a log line. */
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

/** JSON lines on stdout. Secrets are cut out here once more, though nobody should log one. */
export function createLogger(
  config: Pick<Config, 'logLevel'>,
  destination?: DestinationStream,
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
  return destination === undefined ? pino(options) : pino(options, destination);
}
