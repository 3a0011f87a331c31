/** Forms of values that several variables use. */
import { isIP } from 'node:net';

/**
 * Returns true for a URL that the Postgres driver can parse. The driver decodes the parts only when
 * it connects.
 */
export function isPostgresUrl(value: string): boolean {
  return /^postgres(ql)?:\/\/./.test(value) && URL.canParse(value) && isDecodable(value);
}

function isDecodable(value: string): boolean {
  try {
    decodeURIComponent(value);
    return true;
  } catch {
    return false;
  }
}

/** Returns true for an IP address or a host name, without scheme and port. */
export function isHost(value: string): boolean {
  return isIP(value) !== 0 || /^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(value);
}

/** Returns the origin in the form that browsers send; null if the text is not exactly an origin. */
export function toOrigin(value: string): string | null {
  const url = URL.canParse(value) ? new URL(value) : null;
  // The href of a URL without user, path, query and fragment is its origin and a slash.
  if (url === null || !/^https?:$/.test(url.protocol) || url.href !== `${url.origin}/`) return null;
  return url.hostname.includes('*') ? null : url.origin;
}

/**
 * Returns true for a URL from which signing keys may be fetched: https, or http on a loopback
 * address. Over plain http an attacker could replace the keys and sign in as anyone.
 */
export function isKeySetUrl(value: string): boolean {
  const url = URL.canParse(value) ? new URL(value) : null;
  if (url === null || url.username !== '' || url.password !== '') return false;
  const isLoopback = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname);
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback);
}

/** Returns true for the form of an AWS region. */
export function isRegion(value: string): boolean {
  return /^[a-z]{2}(-[a-z]+)+-\d{1,2}$/.test(value);
}

/** Returns true for an IP address or a CIDR. */
export function isNetwork(entry: string): boolean {
  const [address = '', prefix, ...more] = entry.split('/');
  const bits = { 4: 32, 6: 128 }[isIP(address)];
  if (bits === undefined || address.includes('%') || more.length > 0) return false;
  return prefix === undefined || (/^[1-9]\d{0,2}$/.test(prefix) && Number(prefix) <= bits);
}

/** Splits a list at commas. Trims the entries and drops empty ones. */
export function splitList(value: string): string[] {
  return value
    .split(',')
    .map(entry => entry.trim())
    .filter(entry => entry !== '');
}

/** Returns true for `false`, a number of proxies, or a list of addresses and CIDRs. */
export function isTrustProxy(value: string): boolean {
  if (value === 'false' || /^[1-9]\d?$/.test(value)) return true;
  const networks = splitList(value);
  return networks.length > 0 && networks.every(isNetwork);
}

const encryptionKey = /^([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/]{43}=)$/;

/**
 * Returns the id and base64 text of each key; null if an entry is malformed or an id is repeated.
 */
export function splitEncryptionKeys(value: string): { id: string; encoded: string }[] | null {
  const keys = value.split(',').map(entry => {
    const [, id = '', encoded = ''] = encryptionKey.exec(entry.trim()) ?? [];
    return { id, encoded };
  });
  const ids = new Set(keys.map(key => key.id));
  return ids.has('') || ids.size !== keys.length ? null : keys;
}
