/** How the text of an environment variable becomes a value. Every message is one line that starts with the variable's name. */
import { isIP } from 'node:net';

/** A variable is missing or malformed. The message is one line that starts with the variable's name. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

export type Env = Readonly<Record<string, string | undefined>>;

export function text(env: Env, name: string): string | null {
  const value = env[name]?.trim();
  return value === undefined || value === '' ? null : value;
}

export function list(env: Env, name: string): string[] {
  return (text(env, name) ?? '')
    .split(',')
    .map(entry => entry.trim())
    .filter(entry => entry !== '');
}

export function missing(name: string): never {
  throw new ConfigError(`${name} is required`);
}

export function malformed(message: string): never {
  throw new ConfigError(message);
}

export function postgresUrl(env: Env, name: string): string | null {
  const value = text(env, name);
  if (value === null) return null;
  if (!/^postgres(ql)?:\/\/./.test(value) || !URL.canParse(value) || !isDecodable(value)) {
    throw new ConfigError(`${name} must be a URL like postgres://user:password@host:5432/database`);
  }
  return value;
}

/** The driver decodes the parts, and only when it connects. */
function isDecodable(value: string): boolean {
  try {
    decodeURIComponent(value);
    return true;
  } catch {
    return false;
  }
}

export function word(env: Env, name: string, otherwise = ''): string {
  const value = text(env, name) ?? otherwise;
  if (!/^[\x21-\x7e]{1,500}$/.test(value)) {
    throw new ConfigError(`${name} must be printable ASCII without spaces, 500 characters at most`);
  }
  return value;
}

/** From `least` to `most`, of what `unit` says. */
interface WholeNumber {
  readonly least: number;
  readonly most: number;
  readonly otherwise: number;
  readonly unit?: string;
}

export function wholeNumber(
  env: Env,
  name: string,
  { least, most, otherwise, unit }: WholeNumber,
): number {
  const value = text(env, name);
  if (value === null) return otherwise;
  if (!/^\d{1,9}$/.test(value) || Number(value) < least || Number(value) > most) {
    const what = unit === undefined ? 'a whole number' : `a whole number of ${unit}`;
    throw new ConfigError(`${name} must be ${what} from ${least} to ${most}`);
  }
  return Number(value);
}

export function oneOf<const T extends string>(
  env: Env,
  name: string,
  allowed: readonly T[],
  otherwise: T,
): T {
  const value = text(env, name);
  if (value === null) return otherwise;
  const found = allowed.find(candidate => candidate === value);
  if (found === undefined) throw new ConfigError(`${name} must be one of ${allowed.join(', ')}`);
  return found;
}

/** As a browser writes it; null where the text is more or less than an origin. */
export function origin(value: string): string | null {
  const url = URL.canParse(value) ? new URL(value) : null;
  // An origin with its slash is all that a URL writes when it has no user, path, query or fragment.
  if (url === null || !/^https?:$/.test(url.protocol) || url.href !== `${url.origin}/`) return null;
  return url.hostname.includes('*') ? null : url.origin;
}

/** An IP address, or one with the length of its prefix. */
export function isNetwork(entry: string): boolean {
  const [address = '', prefix, ...more] = entry.split('/');
  const bits = { 4: 32, 6: 128 }[isIP(address)];
  if (bits === undefined || address.includes('%') || more.length > 0) return false;
  return prefix === undefined || (/^[1-9]\d{0,2}$/.test(prefix) && Number(prefix) <= bits);
}
