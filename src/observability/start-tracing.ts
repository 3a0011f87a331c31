import { DiagLogLevel, diag } from '@opentelemetry/api';
import type { Logger } from 'pino';

export interface Tracing {
  /** Sends what is recorded. Never rejects, and takes no longer than 3 s. */
  stop(): Promise<void>;
}

const stopLimitMs = 3_000;

/**
 * Records traces and sends them as the standard `OTEL_*` variables say, which the SDK reads by itself. The only place
 * that loads the SDK, and only when it is called: it takes 60 MiB of memory and a second or two of the start.
 * https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
 */
export async function startTracing(log: Logger): Promise<Tracing> {
  const [{ NodeSDK }, { resourceFromAttributes }] = await Promise.all([
    import('@opentelemetry/sdk-node'),
    import('@opentelemetry/resources'),
  ]);
  const sdk = new NodeSDK({
    // `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come over it.
    resource: resourceFromAttributes({ 'service.name': 'warehouse-export' }),
    // Metrics are Prometheus's, logs are lines on stdout.
    metricReaders: [],
    logRecordProcessors: [],
    instrumentations: [],
  });
  const warn = (message: string) => log.warn({ detail: message.slice(0, 500) }, 'tracing');
  diag.setLogger(
    { error: warn, warn, info() {}, debug() {}, verbose() {} },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  );
  sdk.start();
  return {
    async stop() {
      let timer: NodeJS.Timeout | undefined;
      const limit = new Promise<void>(resolve => {
        timer = setTimeout(resolve, stopLimitMs);
      });
      const sent = sdk
        .shutdown()
        .catch((error: unknown) => log.warn({ err: error }, 'traces were lost'));
      await Promise.race([sent, limit]);
      clearTimeout(timer);
    },
  };
}
