/**
 * Parses and formats Amazon's bucket URLs, `https://<bucket>.s3.<region>.amazonaws.com[/folder]`.
 */
import { bucketFault, isAwsRegion, keyFault } from './names.ts';
import { describeNearMiss } from './near-bucket-url.ts';

interface BucketLocation {
  readonly bucket: string;
  readonly region: string;
  readonly key: string;
}

/**
 * Returns the parts of a bucket URL, or the reason for its rejection. Trailing slashes of the
 * folder are dropped. A percent-encoded folder is decoded.
 */
export function parseBucketUrl(text: string): BucketLocation | string {
  const match = /^https:\/\/([^/?#@:]+)\.s3\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?(\/[^?#]*)?$/.exec(
    text,
  );
  const [, bucket, region, china, path] = match ?? [];
  if (bucket === undefined || region === undefined || /[A-Z]/.test(bucket)) {
    return describeNearMiss(text);
  }
  const badBucket = bucketFault('aws', bucket);
  if (badBucket !== null) return `names the bucket "${bucket}", which ${badBucket}`;
  if (!isAwsRegion(region)) {
    return `names no region that exists ("${region}"): write https://<bucket>.s3.<region>.amazonaws.com/<folder>`;
  }
  if (region.startsWith('cn-') !== (china !== undefined)) {
    return `must end with amazonaws.com.cn in the regions of China, and with amazonaws.com in all others: write ${formatBucketUrl({ bucket, region, key: '' })}${path ?? ''}`;
  }
  if (path?.includes('+')) {
    return 'has a "+" in the folder, which may mean a space: write "%20" for a space and "%2B" for a plus sign';
  }
  const key = decodeKey(path ?? '');
  if (key === null)
    return 'has a "%" that is not followed by two hexadecimal digits of UTF-8; write "%25" for it';
  const badKey = keyFault(key);
  return badKey === null ? { bucket, region, key } : `has a folder that ${badKey}`;
}

/** Returns the URL that `parseBucketUrl` parses to the same parts. Placeholders stay readable. */
export function formatBucketUrl({ bucket, region, key }: BucketLocation): string {
  const suffix = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com';
  const path = key === '' ? '' : `/${encodeFolder(key)}`;
  return `https://${bucket}.s3.${region}.${suffix}${path}`;
}

function encodeFolder(key: string): string {
  return key
    .split('/')
    .map(segment => encodeURIComponent(segment).replaceAll('%7B', '{').replaceAll('%7D', '}'))
    .join('/');
}

/**
 * Decodes a folder. Returns null if it is not percent-encoded UTF-8. `exports%2F` is the folder
 * `exports` too.
 */
function decodeKey(path: string): string | null {
  try {
    // One leading slash belongs to the URL. A second one is an empty segment.
    return decodeURIComponent(path.replace(/^\//, '')).trim().replace(/\/+$/, '');
  } catch {
    return null;
  }
}
