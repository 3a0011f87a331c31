import { IsOptional, type TSchema } from 'typebox';
import { Value } from 'typebox/value';
import { splitList } from './value-forms.ts';
import type { VariableDoc } from './variable-types.ts';
import { type Variables, variables } from './variables.ts';

/** Error for a missing or malformed variable. The message is one line that starts with its name. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

export type Env = Readonly<Record<string, string | undefined>>;

/** Keywords of a schema in `variables.ts`. */
export type VariableSchema = TSchema &
  VariableDoc & {
    readonly type: 'string' | 'integer' | 'array';
    readonly mustBe: string;
    readonly default?: string | number | readonly string[];
    readonly minimum?: number;
    readonly maximum?: number;
    readonly enum?: readonly string[];
  };

export const variableEntries = Object.entries(variables.properties) as unknown as readonly [
  name: keyof Variables,
  schema: VariableSchema,
][];

/**
 * Reads every variable.
 * @throws ConfigError for the first variable that is missing or malformed
 */
export function readVariables(env: Env): Variables {
  const read = variableEntries.map(([name, schema]) => [name, readValue(env, name, schema)]);
  return Object.fromEntries(read) as Variables;
}

/**
 * Reads one variable.
 * @throws ConfigError if the variable is missing or malformed
 */
export function readVariable<N extends keyof Variables>(env: Env, name: N): Variables[N] {
  const schema = variables.properties[name] as unknown as VariableSchema;
  return readValue(env, name, schema) as Variables[N];
}

/** Reads and checks a value. Values are trimmed, and a blank variable counts as absent. */
function readValue(env: Env, name: string, schema: VariableSchema): unknown {
  const text = env[name]?.trim() ?? '';
  if (text === '') {
    if (schema.default !== undefined || IsOptional(schema)) return schema.default;
    throw new ConfigError(`${name} is required`);
  }
  const value = parse(schema, text);
  if (!Value.Check(schema, value)) throw new ConfigError(`${name} must be ${schema.mustBe}`);
  return value;
}

function parse({ type }: VariableSchema, text: string): unknown {
  if (type === 'array') return splitList(text);
  // Only decimal digits. Number() also accepts 0x10, 1e3 and an empty string.
  if (type === 'integer') return /^\d{1,9}$/.test(text) ? Number(text) : text;
  return text;
}
