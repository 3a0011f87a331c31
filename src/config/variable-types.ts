/** Constructors for the types of environment variables that `variables.ts` uses. */
import { Type } from 'typebox';

/** Documentation of a variable for the generated documents. */
export interface VariableDoc {
  readonly group: string;
  /** Sentences in Markdown. */
  readonly description: string;
  /** Value in `.env.example`. Default: the default of the variable. */
  readonly example?: string;
  /** Default in words, for a variable whose default is not a fixed value. */
  readonly defaultText?: string;
}

/** Completes the error message "NAME must be …". */
type MustBe = string;

export function checked(mustBe: MustBe, check: (value: string) => boolean, doc: VariableDoc) {
  return Type.Refine(Type.String({ mustBe, ...doc }), check);
}

export function checkedWithDefault(
  mustBe: MustBe,
  check: (value: string) => boolean,
  doc: VariableDoc & { readonly default: string },
) {
  return Type.Refine(Type.String({ mustBe, ...doc }), check);
}

/** Comma-separated list. Default: empty. */
export function list(mustBe: MustBe, check: (entry: string) => boolean, doc: VariableDoc) {
  return Type.Array(Type.Refine(Type.String(), check), {
    mustBe: `${mustBe}, several separated by commas`,
    default: [],
    ...doc,
  });
}

interface WholeNumberDoc extends VariableDoc {
  readonly minimum: number;
  readonly maximum: number;
  readonly default?: number;
  readonly unit?: string;
}

export function wholeNumber({ unit, ...doc }: WholeNumberDoc) {
  const what = unit === undefined ? 'a whole number' : `a whole number of ${unit}`;
  return Type.Integer({ mustBe: `${what} from ${doc.minimum} to ${doc.maximum}`, ...doc });
}

export function oneOf<const T extends string>(
  allowed: readonly T[],
  doc: VariableDoc & { readonly default: T },
) {
  return Type.Unsafe<T>({
    type: 'string',
    enum: [...allowed],
    mustBe: `one of ${allowed.join(', ')}`,
    ...doc,
  });
}

/** String of printable ASCII without spaces, at most 500 characters. */
export function word(doc: VariableDoc & { readonly default?: string }) {
  return Type.String({
    pattern: '^[\\x21-\\x7e]{1,500}$',
    mustBe: 'printable ASCII without spaces, at most 500 characters',
    ...doc,
  });
}

/** Standard variable of OpenTelemetry. The SDK reads and checks its value. */
export function openTelemetry(doc: Omit<VariableDoc, 'group'>) {
  return Type.Optional(Type.String({ mustBe: 'text', group: 'Traces', ...doc }));
}
