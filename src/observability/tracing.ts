/**
 * Spans of the work of the service. Only this file uses the OpenTelemetry API. Until
 * `start-tracing.ts` starts tracing, nothing is recorded and every span is the same empty one.
 */
import {
  type Context,
  context,
  type Span as OtelSpan,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';

/** Attributes of a span. Never a secret and never a URL: a download link opens a file. */
export type Attributes = Readonly<Record<string, string | number | boolean>>;

/** Tracing span. */
export interface Span {
  /** Starts a child span. */
  begin(name: string, attributes?: Attributes): Span;
  /** Runs the work inside this span: spans that it starts by `withSpan` become children. */
  within<T>(work: () => T): T;
  rename(name: string): void;
  add(attributes: Attributes): void;
  /**
   * Ends the span. Of an error only the type is recorded, because the message may hold customer
   * data.
   */
  end(error?: unknown): void;
  /** Ids for log lines; empty if noSpan is traced. */
  readonly ids: { readonly traceId?: string; readonly spanId?: string };
  /** Context for other processes in the form of W3C Trace Context; empty if noSpan is traced. */
  readonly traceContext: TraceContext;
}

export interface TraceContext {
  readonly traceparent?: string;
}

const noSpan: Span = {
  begin: () => noSpan,
  within: work => work(),
  rename() {},
  add() {},
  end() {},
  ids: {},
  traceContext: {},
};

/** Starts the span of a request. Continues the trace of the caller if its headers name one. */
export function beginRequest(name: string, headers: Readonly<Record<string, unknown>>): Span {
  return start(name, SpanKind.SERVER, {}, propagation.extract(ROOT_CONTEXT, headers));
}

/** Starts the span of a job. Continues the trace of the request that enqueued it. */
export function beginJob(name: string, attributes: Attributes, askedFor: TraceContext): Span {
  return start(name, SpanKind.CONSUMER, attributes, propagation.extract(ROOT_CONTEXT, askedFor));
}

/** Returns the active span, or an empty one if there is none. */
export function currentSpan(): Span {
  const span = trace.getActiveSpan();
  return span === undefined ? noSpan : wrapSpan(span, context.active());
}

/** Runs the work in a child of the active span, if there is one. */
export async function withSpan<T>(
  name: string,
  attributes: Attributes,
  work: (span: Span) => Promise<T>,
): Promise<T> {
  return await endSpanWith(currentSpan().begin(name, attributes), work);
}

/** Runs the work inside the span and ends the span with it. */
export async function endSpanWith<T>(span: Span, work: (span: Span) => Promise<T>): Promise<T> {
  try {
    const result = await span.within(() => work(span));
    span.end();
    return result;
  } catch (error) {
    span.end(error);
    throw error;
  }
}

/** Passes a stream through. The span ends with the stream. */
export function endSpanWithStream<T>(span: Span, source: AsyncGenerator<T>): AsyncGenerator<T> {
  return span === noSpan ? source : untilRead(span, source);
}

async function* untilRead<T>(span: Span, source: AsyncGenerator<T>): AsyncGenerator<T> {
  let failure: unknown = new Error('It was not read to its end.');
  try {
    yield* source;
    failure = undefined;
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    span.end(failure);
  }
}

function start(name: string, kind: SpanKind, attributes: Attributes, parent: Context): Span {
  const span = trace.getTracer('warehouse-export').startSpan(name, { kind, attributes }, parent);
  return trace.isSpanContextValid(span.spanContext())
    ? wrapSpan(span, trace.setSpan(parent, span))
    : noSpan;
}

function wrapSpan(span: OtelSpan, inside: Context): Span {
  const { traceId, spanId } = span.spanContext();
  return {
    begin: (name, attributes = {}) => start(name, SpanKind.INTERNAL, attributes, inside),
    within: work => context.with(inside, work),
    rename: name => span.updateName(name),
    add: attributes => span.setAttributes(attributes),
    end(error) {
      if (error !== undefined) {
        span.setAttribute('error.type', kindOf(error));
        span.setStatus({ code: SpanStatusCode.ERROR });
      }
      span.end();
    },
    ids: { traceId, spanId },
    get traceContext() {
      const carrier: { traceparent?: string } = {};
      propagation.inject(inside, carrier);
      return carrier.traceparent === undefined ? {} : { traceparent: carrier.traceparent };
    },
  };
}

function kindOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name;
}
