/**
 * Steps of what the service does, for traces: the only place that knows OpenTelemetry's interface. Unless tracing was
 * started (`start-tracing.ts`) nothing is recorded, and every step is the same empty one.
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

/** What is known of a step. Never a secret, and no URL: a download link is one. */
export type Facts = Readonly<Record<string, string | number | boolean>>;

export interface Step {
  /** A step inside this one. */
  begin(name: string, facts?: Facts): Step;
  /** Carries the work out inside this step: steps that it begins by `inStep` are part of this one. */
  within<T>(work: () => T): T;
  rename(name: string): void;
  add(facts: Facts): void;
  /** Of an error no more is kept than its kind: its message may hold what it was about. */
  end(error?: unknown): void;
  /** For log lines; empty when nothing is traced. */
  readonly ids: { readonly traceId?: string; readonly spanId?: string };
  /** What others go on from, as W3C Trace Context writes it; empty when nothing is traced. */
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

/** The first step here of a request, which may go on with its caller's trace. */
export function beginRequest(name: string, headers: Readonly<Record<string, unknown>>): Step {
  return start(name, SpanKind.SERVER, {}, propagation.extract(ROOT_CONTEXT, headers));
}

/** The first step of work that was asked for earlier, perhaps in another process. */
export function beginJob(name: string, facts: Facts, askedFor: TraceContext): Step {
  return start(name, SpanKind.CONSUMER, facts, propagation.extract(ROOT_CONTEXT, askedFor));
}

/** The step that is under way here; an empty one when there is none. */
export function currentStep(): Step {
  const span = trace.getActiveSpan();
  return span === undefined ? nothing : stepOf(span, context.active());
}

/** Carries the work out as a part of the step that is under way here, if there is one. */
export async function inStep<T>(
  name: string,
  facts: Facts,
  work: (step: Step) => Promise<T>,
): Promise<T> {
  return await during(currentStep().begin(name, facts), work);
}

/** The step ends with the work. */
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

/** Passes on what a stream brings; the step ends with it. */
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
