/**
 * Checks names of buckets, regions and folders. Each function returns the reason for a rejection as
 * text that completes a sentence, or null.
 */
import {
  longestName,
  maxKeyBytes,
  placeholderNames,
  renderFolder,
  unknownPlaceholder,
} from './object-key.ts';

export type Provider = 'aws' | 'gcp' | 'custom';

const bucketShapes: Readonly<Record<Provider, { shape: RegExp; rule: string }>> = {
  // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
  aws: {
    shape: /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/,
    rule: '3 to 63 lower-case letters, digits, dots and hyphens, with a letter or digit at both ends',
  },
  // https://cloud.google.com/storage/docs/buckets#naming: 63 a part, 222 in all
  gcp: {
    shape:
      /^(?!goog)(?=.{3,222}$)[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9_-])?(?:\.[a-z0-9_-]{1,63})*(?<![._-])$/,
    rule: '3 to 63 lower-case letters, digits, hyphens and underscores (parts may be joined by dots), with a letter or digit at both ends, not starting with "goog"',
  },
  // RADOS Gateway's relaxed names are the widest in use, with the tenant of a bucket in front. The
  // endpoint applies its own rules.
  custom: {
    shape: /^(?:\w{1,64}:)?[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/,
    rule: '3 to 255 letters, digits, dots, hyphens and underscores, with a letter or digit at both ends, and at Ceph perhaps a tenant and ":" in front',
  },
};

/**
 * Suffixes of access points, directory buckets and similar. S3 clients use another protocol for
 * them.
 */
const reservedSuffix = /(?:-s3alias|--ol-s3|--op-s3|--x-s3|--table-s3|\.mrap)$/;
const reservedPrefix = /^(?:xn--|sthree-|amzn-s3-demo-)/;

export function bucketError(provider: Provider, bucket: string): string | null {
  const { shape, rule } = bucketShapes[provider];
  if (!shape.test(bucket) || bucket.includes('..')) return `must be a bucket name: ${rule}`;
  if (/^\d+\.\d+\.\d+\.\d+$/.test(bucket))
    return 'must be a bucket name, which may not look like an IP address';
  if (reservedSuffix.test(bucket) || (provider === 'aws' && reservedPrefix.test(bucket))) {
    return 'must be a general purpose bucket; this name belongs to an access point, a directory bucket or the like';
  }
  return null;
}

/**
 * Returns true if a region is in the partition `aws`, `aws-us-gov` or `aws-cn`. Others have no
 * public hosts.
 */
export function isAwsRegion(region: string): boolean {
  return /^[a-z]{2}(?:-gov)?-[a-z]{4,12}-\d{1,2}$/.test(region);
}

/**
 * Checks a region. Accepts any label, such as `europe-west1`, `EU`, `auto` or `RegionOne`. The
 * region is part of signatures, not of hosts.
 */
export function regionError(region: string): string | null {
  return /^[A-Za-z0-9][A-Za-z0-9-]{0,62}$/.test(region)
    ? null
    : 'must be a region such as "europe-west1" (letters, digits and hyphens)';
}

/**
 * Checks a folder without slashes at its ends. `''` is the root of the bucket. Placeholders count
 * with their longest values.
 */
export function keyError(key: string): string | null {
  if (key === '') return null;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this looks for
  if (/[\u0000-\u001f\u007f-\u009f\ufffe\uffff]/.test(key) || !key.isWellFormed()) {
    return 'may not contain control characters';
  }
  // Some clients and proxies normalize these before they sign, others do not.
  if (key.split('/').some(segment => segment === '' || segment === '.' || segment === '..')) {
    return 'may not contain empty segments ("//"), "." or ".."';
  }
  const unknown = unknownPlaceholder(key);
  if (unknown !== null) {
    return `has "${unknown}", which is no placeholder; there are ${placeholderNames.join(', ')}`;
  }
  if (Buffer.byteLength(renderFolder(key, longestName)) > maxKeyBytes)
    return `may not be longer than ${maxKeyBytes} bytes`;
  return null;
}

/** Removes slashes at both ends. */
export function trimSlashes(key: string): string {
  return key.replace(/^\/+|\/+$/g, '');
}
