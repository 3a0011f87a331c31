import { DiagLogLevel, diag } from '@opentelemetry/api';
import type { Logger } from 'pino';

export interface Tracing {
  /** Sends the recorded spans and stops. Never rejects and takes at most 3 s. */
  stop(): Promise<void>;
}

const stopLimitMs = 3_000;

/**
 * Starts to record and send traces. The SDK reads the standard `OTEL_*` variables.
 * Only this function loads the SDK, which takes 60 MiB of memory and 1 to 2 s of start-up time.
 * https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
 */
export async function startTracing(log: Logger): Promise<Tracing> {
  const [{ NodeSDK }, { resourceFromAttributes }] = await Promise.all([
    import('@opentelemetry/sdk-node'),
    import('@opentelemetry/resources'),
  ]);
  const sdk = new NodeSDK({
    // `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` override this.
    resource: resourceFromAttributes({ 'service.name': 'warehouse-export' }),
    // Prometheus collects the metrics, and logs go to stdout.
    metricReaders: [],
    logRecordProcessors: [],
    instrumentations: [],
  });
  const warn = (message: string) => log.warn({ detail: message.slice(0, 500) }, 'tracing warning');
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
        .catch((error: unknown) => log.warn({ err: error }, 'trace export failed'));
      await Promise.race([sent, limit]);
      clearTimeout(timer);
    },
  };
}
