/**
 * Spans of the work of the service. Only this file uses the OpenTelemetry API. Until
 * `start-tracing.ts` starts tracing, nothing is recorded and every span is the same empty one.
 */
import {
  type Context,
  context,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';

/** Attributes of a span. Never a secret and never a URL: a download link opens a file. */
export type Facts = Readonly<Record<string, string | number | boolean>>;

/** Tracing span. */
export interface Step {
  /** Starts a child span. */
  begin(name: string, facts?: Facts): Step;
  /** Runs the work inside this span: spans that it starts by `inStep` become children. */
  within<T>(work: () => T): T;
  rename(name: string): void;
  add(facts: Facts): void;
  /**
   * Ends the span. Of an error only the type is recorded, because the message may hold customer
   * data.
   */
  end(error?: unknown): void;
  /** Ids for log lines; empty if nothing is traced. */
  readonly ids: { readonly traceId?: string; readonly spanId?: string };
  /** Context for other processes in the form of W3C Trace Context; empty if nothing is traced. */
  readonly traceContext: TraceContext;
}

export interface TraceContext {
  readonly traceparent?: string;
}

const nothing: Step = {
  begin: () => nothing,
  within: work => work(),
  rename() {},
  add() {},
  end() {},
  ids: {},
  traceContext: {},
};

/** Starts the span of a request. Continues the trace of the caller if its headers name one. */
export function beginRequest(name: string, headers: Readonly<Record<string, unknown>>): Step {
  return start(name, SpanKind.SERVER, {}, propagation.extract(ROOT_CONTEXT, headers));
}

/** Starts the span of a job. Continues the trace of the request that enqueued it. */
export function beginJob(name: string, facts: Facts, askedFor: TraceContext): Step {
  return start(name, SpanKind.CONSUMER, facts, propagation.extract(ROOT_CONTEXT, askedFor));
}

/** Returns the active span, or an empty one if there is none. */
export function currentStep(): Step {
  const span = trace.getActiveSpan();
  return span === undefined ? nothing : stepOf(span, context.active());
}

/** Runs the work in a child of the active span, if there is one. */
export async function inStep<T>(
  name: string,
  facts: Facts,
  work: (step: Step) => Promise<T>,
): Promise<T> {
  return await during(currentStep().begin(name, facts), work);
}

/** Runs the work inside the span and ends the span with it. */
export async function during<T>(step: Step, work: (step: Step) => Promise<T>): Promise<T> {
  try {
    const result = await step.within(() => work(step));
    step.end();
    return result;
  } catch (error) {
    step.end(error);
    throw error;
  }
}

/** Passes a stream through. The span ends with the stream. */
export function duringStream<T>(step: Step, source: AsyncGenerator<T>): AsyncGenerator<T> {
  return step === nothing ? source : untilRead(step, source);
}

async function* untilRead<T>(step: Step, source: AsyncGenerator<T>): AsyncGenerator<T> {
  let fault: unknown = new Error('It was not read to its end.');
  try {
    yield* source;
    fault = undefined;
  } catch (error) {
    fault = error;
    throw error;
  } finally {
    step.end(fault);
  }
}

function start(name: string, kind: SpanKind, attributes: Facts, parent: Context): Step {
  const span = trace.getTracer('warehouse-export').startSpan(name, { kind, attributes }, parent);
  return trace.isSpanContextValid(span.spanContext())
    ? stepOf(span, trace.setSpan(parent, span))
    : nothing;
}

function stepOf(span: Span, inside: Context): Step {
  const { traceId, spanId } = span.spanContext();
  return {
    begin: (name, facts = {}) => start(name, SpanKind.INTERNAL, facts, inside),
    within: work => context.with(inside, work),
    rename: name => span.updateName(name),
    add: facts => span.setAttributes(facts),
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
