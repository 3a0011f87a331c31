/** Amazon's virtual-hosted bucket URL: `https://<bucket>.s3.<region>.amazonaws.com[/key]`. Pure. */
import { bucketFault, isAwsRegion, keyFault } from './names.ts';

interface BucketLocation {
  readonly bucket: string;
  readonly region: string;
  readonly key: string;
}

const form = 'https://<bucket>.s3.<region>.amazonaws.com/<folder>';

/** Common ways to be almost right, each with the words that put it right. The first that fits is told. */
const nearMisses: readonly (readonly [RegExp, string])[] = [
  [/^s3:\/\//i, `must be an https URL, not an s3:// one: write ${form}`],
  [/^http:/i, `must start with https://: write ${form}`],
  [/^[^/]*\/\/[^/]*console\.aws\./i, `is the address of the AWS console: write ${form}`],
  [/^[^/]*\/\/[^/?#]*@/, `may not contain a user or password: write ${form}`],
  [/[?#]/, `may not contain "?" or "#" (encode them in a folder name): write ${form}`],
  [/^https:\/\/[^/]*:\d*(?:\/|$)/i, `may not contain a port: write ${form}`],
  [/^https:\/\/s3[.-]/i, `must have the bucket in the host name, not in the path: write ${form}`],
  [
    /^https:\/\/[^/]*\.s3\.dualstack\./i,
    `must be the plain address, without "dualstack": write ${form}`,
  ],
  [/^https:\/\/[^/]*\.s3-website[.-]/i, `is the address of a website: write ${form}`],
  [/^https:\/\/[^/]*\.s3\.amazonaws\.com(?:\/|$)/i, `must name the region: write ${form}`],
  [/^https:\/\/[^/]*\.s3-/i, `must have ".s3.<region>", with a dot: write ${form}`],
  [/^https:\/\/[^/]*[A-Z][^/]*\.s3\./, `must be in lower case before the folder: write ${form}`],
];

/** @returns the parts, or the fault as text. Trailing slashes are dropped; a percent-encoded key is decoded. */
export function parseBucketUrl(text: string): BucketLocation | string {
  const match = /^https:\/\/([^/?#@:]+)\.s3\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?(\/[^?#]*)?$/.exec(
    text,
  );
  const [, bucket, region, china, path] = match ?? [];
  if (bucket === undefined || region === undefined) {
    return nearMisses.find(([shape]) => shape.test(text))?.[1] ?? `must look like ${form}`;
  }
  if (/[A-Z]/.test(bucket)) return `must be in lower case before the folder: write ${form}`;
  const badBucket = bucketFault('aws', bucket);
  if (badBucket !== null) return `names the bucket "${bucket}", which ${badBucket}`;
  if (!isAwsRegion(region)) return `names no region that exists ("${region}"): write ${form}`;
  if (region.startsWith('cn-') !== (china !== undefined)) {
    return 'must end with amazonaws.com.cn in the regions of China, and with amazonaws.com in all others';
  }
  const key = decodeKey(path ?? '');
  if (key === null)
    return 'has a "%" that is not followed by two hexadecimal digits of UTF-8; write "%25" for it';
  const badKey = keyFault(key);
  return badKey === null ? { bucket, region, key } : `has a folder that ${badKey}`;
}

/** The URL that parseBucketUrl reads back to the same parts. */
export function formatBucketUrl({ bucket, region, key }: BucketLocation): string {
  const suffix = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com';
  const path = key === '' ? '' : `/${key.split('/').map(encodeURIComponent).join('/')}`;
  return `https://${bucket}.s3.${region}.${suffix}${path}`;
}

/** `exports%2F` is the folder `exports` too. Null: not percent-encoded UTF-8. */
function decodeKey(path: string): string | null {
  try {
    // One leading slash belongs to the URL; a second one would be an empty segment.
    return decodeURIComponent(path.replace(/^\//, '')).trim().replace(/\/+$/, '');
  } catch {
    return null;
  }
}
