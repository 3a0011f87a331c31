import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { readBody } from './read-body.ts';

export interface ReceivedSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string | null;
  readonly startMs: number;
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
  readonly isError: boolean;
}

export interface TraceReceiver {
  /** Environment variables that make a service send its traces here. */
  readonly env: Readonly<Record<string, string>>;
  readonly spans: readonly ReceivedSpan[];
  /** Request bodies as they were received. */
  readonly bodies: readonly string[];
  /**
   * Returns the names of a trace's spans in the order of their start. Children are indented under
   * their parents.
   */
  tree(traceId: string): string[];
  close(): Promise<void>;
}

/**
 * Starts a receiver of OTLP over HTTP with JSON on loopback:
 * https://opentelemetry.io/docs/specs/otlp/#otlphttp
 */
export async function startTraceReceiver(): Promise<TraceReceiver> {
  const spans: ReceivedSpan[] = [];
  const bodies: string[] = [];
  const server = http.createServer(async (request, response) => {
    const body = await readBody(request);
    // A service that shuts down or is killed may abort its last request.
    if (body === null) return;
    bodies.push(body);
    spans.push(...spansOf(JSON.parse(body)));
    response.setHeader('content-type', 'application/json').end('{}');
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    env: {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
      OTEL_BSP_SCHEDULE_DELAY: '50',
    },
    spans,
    bodies,
    tree(traceId) {
      const ofTrace = spans
        .filter(span => span.traceId === traceId)
        .toSorted((a, b) => a.startMs - b.startMs);
      const known = new Set(ofTrace.map(span => span.spanId));
      const under = (parent: (span: ReceivedSpan) => boolean, depth: number): string[] =>
        ofTrace
          .filter(parent)
          .flatMap(span => [
            `${'  '.repeat(depth)}${span.name}`,
            ...under(child => child.parentSpanId === span.spanId, depth + 1),
          ]);
      return under(span => span.parentSpanId === null || !known.has(span.parentSpanId), 0);
    },
    async close() {
      server.closeAllConnections();
      await new Promise(resolve => server.close(resolve));
    },
  };
}

interface OtlpSpan {
  name: string;
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  startTimeUnixNano: string;
  attributes?: { key: string; value: Record<string, string | number | boolean> }[];
  status?: { code?: number };
}

function spansOf(body: {
  resourceSpans: { scopeSpans: { spans: OtlpSpan[] }[] }[];
}): ReceivedSpan[] {
  return body.resourceSpans
    .flatMap(({ scopeSpans }) => scopeSpans)
    .flatMap(scope => scope.spans)
    .map(({ name, traceId, spanId, parentSpanId, startTimeUnixNano, attributes = [], status }) => ({
      name,
      traceId,
      spanId,
      parentSpanId: parentSpanId ?? null,
      startMs: Number(startTimeUnixNano) / 1e6,
      attributes: Object.fromEntries(
        attributes.map(({ key, value }) => [key, Object.values(value)[0] ?? '']),
      ),
      isError: status?.code === 2,
    }));
}
