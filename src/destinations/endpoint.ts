/** Checks the form of custom endpoints. The endpoint guard decides which hosts may be reached. */

/** Returns the reason why a text is not an origin (scheme, host and port), or null. */
export function endpointFault(text: string): string | null {
  const form = 'write scheme, host and port alone, such as https://minio.example.com:9000';
  if (!/^https?:\/\//i.test(text)) return `must start with https://: ${form}`;
  if (text.includes('@')) return `may not contain a user or password: ${form}`;
  // URL drops tabs and line breaks and reads "\" as "/", so it only sees text without them.
  if (/[\s\\]/.test(text) || !URL.canParse(text)) return `is not a URL: ${form}`;
  if (!/^https?:\/\/[^/?#]+\/?$/i.test(text)) return `may not contain a path or query: ${form}`;
  if (new URL(text).port === '0') return `has a port that cannot be reached: ${form}`;
  return null;
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
 * Returns the endpoint without the bucket if its host certainly starts with that bucket, else null.
 */
export function withoutBucket(endpoint: string, bucket: string): string | null {
  const url = new URL(endpoint);
  const prefix = `${bucket.toLowerCase()}.`;
  if (!url.hostname.startsWith(prefix)) return null;
  const host = url.hostname.slice(prefix.length);
  if (!endpointHosts.some(shape => shape.test(host))) return null;
  return `${url.protocol}//${host}${url.port === '' ? '' : `:${url.port}`}`;
}
