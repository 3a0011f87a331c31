/**
 * Parses and formats Amazon's bucket URLs, `https://<bucket>.s3.<region>.amazonaws.com[/folder]`.
 */
import { bucketError, isAwsRegion } from './names.ts';
import { describeNearMiss } from './near-bucket-url.ts';
import { formatFolder, parseFolder } from './url-folder.ts';

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
  const badBucket = bucketError('aws', bucket);
  if (badBucket !== null) return `names the bucket "${bucket}", which ${badBucket}`;
  if (!isAwsRegion(region)) {
    return `names no region that exists ("${region}"): write https://<bucket>.s3.<region>.amazonaws.com/<folder>`;
  }
  const folder = parseFolder(path ?? '');
  if ('error' in folder) return folder.error;
  const location = { bucket, region, key: folder.key };
  if (region.startsWith('cn-') !== (china !== undefined)) {
    return `must end with amazonaws.com.cn in the regions of China, and with amazonaws.com in all others: write ${formatBucketUrl(location)}`;
  }
  return location;
}

/** Returns the URL that `parseBucketUrl` parses to the same parts. Placeholders stay readable. */
export function formatBucketUrl({ bucket, region, key }: BucketLocation): string {
  const suffix = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com';
  return `https://${bucket}.s3.${region}.${suffix}${formatFolder(key)}`;
}
