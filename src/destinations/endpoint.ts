/** Checks the form of custom endpoints. The endpoint guard decides which hosts may be reached. */

/**
 * Returns the reason why a text is not an endpoint, or null if it is one. An endpoint has scheme,
 * host, an optional port, and the path of a storage that has one, such as `/storage/v1/s3`.
 */
export function endpointError(text: string): string | null {
  const form = 'write scheme, host and port, such as https://minio.example.com:9000';
  if (!/^https?:\/\//i.test(text)) return `must start with https://: ${form}`;
  if (text.includes('@')) return `may not contain a user or password: ${form}`;
  // URL drops tabs and line breaks and reads "\" as "/", so it only sees text without them.
  if (/[\s\\]/.test(text) || !URL.canParse(text)) return `is not a URL: ${form}`;
  // Clients and proxies treat empty segments, dots and encoded characters differently.
  const path = /^https?:\/\/[^/?#]+((?:\/[\w.~-]+)*)\/?$/i.exec(text)?.[1];
  if (path === undefined || /\/\.{1,2}(?:\/|$)/.test(path)) {
    return `may contain only a simple path after the port, and no query: ${form}`;
  }
  if (new URL(text).port === '0') return `has a port that cannot be reached: ${form}`;
  return null;
}

/** Returns an endpoint in the form of WHATWG URL, without a slash at its end. */
export function normalizeEndpoint(endpoint: string): string {
  const { origin, pathname } = new URL(endpoint);
  return `${origin}${pathname.replace(/\/$/, '')}`;
}

/**
 * Hosts of endpoints of providers that also answer at `<bucket>.<host>`.
 *
 * For these hosts it is certain that the first label is a bucket. Elsewhere a bucket may have the
 * name of the first label, such as `minio` at minio.example.com. The check of the bucket covers
 * other hosts.
 */
const endpointHosts: readonly RegExp[] = [
  /^s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?$/,
  /^storage\.googleapis\.com$/,
  /^[a-z]+\d+\.digitaloceanspaces\.com$/,
  /^s3\.[a-z0-9-]+\.backblazeb2\.com$/,
  /^s3(?:\.[a-z0-9-]+)?\.wasabisys\.com$/,
  /^[0-9a-f]{32}\.(?:(?:eu|us|fedramp)\.)?r2\.cloudflarestorage\.com$/,
  /^[a-z]{2}-[a-z]+-\d+\.linodeobjects\.com$/,
  /^[a-z]+\d+\.vultrobjects\.com$/,
  /^s3\.[a-z0-9-]+\.scw\.cloud$/,
  /^s3\.[a-z0-9-]+\.(?:io|perf)\.cloud\.ovh\.(?:net|us)$/,
  /^[a-z]+\d+\.your-objectstorage\.com$/,
  /^oss-[a-z0-9-]+\.aliyuncs\.com$/,
  /^cos\.[a-z0-9-]+\.myqcloud\.com$/,
  /^tos-s3-[a-z0-9-]+\.i?volces\.com$/,
];

/**
 * Returns the endpoint without bucket and path if its provider has neither in an endpoint. Returns
 * null if it has none of them, or if the provider is unknown.
 */
export function withoutBucket(endpoint: string, bucket: string): string | null {
  const { protocol, hostname, port, pathname } = new URL(endpoint);
  const prefix = `${bucket.toLowerCase()}.`;
  const isPrefixed = hostname.startsWith(prefix);
  // A host may end with the dot of the root of the DNS.
  const host = (isPrefixed ? hostname.slice(prefix.length) : hostname).replace(/\.$/, '');
  const isMisplaced = isPrefixed || pathname !== '/';
  if (!isMisplaced || !endpointHosts.some(shape => shape.test(host))) return null;
  return `${protocol}//${host}${port === '' ? '' : `:${port}`}`;
}
