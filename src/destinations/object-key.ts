/** The names of what a run leaves in the bucket (contract, section 6). Pure. */

export type Compression = 'none' | 'gzip';

/** `<key>/company-adoption_<environmentId>_<snapshotDate>.csv`, `.csv.gz` with gzip; `key` may be empty. */
export function objectKey(
  key: string,
  environmentId: string,
  snapshotDate: string,
  compression: Compression,
): string {
  return `${keyPrefix(key)}${baseName(environmentId, snapshotDate)}.csv${compression === 'gzip' ? '.gz' : ''}`;
}

/** `<key>/_manifest/company-adoption_<environmentId>_<snapshotDate>.json` */
export function manifestKey(key: string, environmentId: string, snapshotDate: string): string {
  return `${keyPrefix(key)}_manifest/${baseName(environmentId, snapshotDate)}.json`;
}

/** What every key under a folder starts with: `exports/` for `exports`, nothing for no folder. */
export function keyPrefix(key: string): string {
  return key === '' ? '' : `${key}/`;
}

function baseName(environmentId: string, snapshotDate: string): string {
  return `company-adoption_${environmentId}_${snapshotDate}`;
}

/** S3 allows 1,024 bytes of UTF-8. What remains for the folder beside the longest name that can follow it. */
export const maxKeyBytes =
  1024 -
  Math.max(
    Buffer.byteLength(objectKey('k', 'e'.repeat(64), '2026-01-02', 'gzip')),
    Buffer.byteLength(manifestKey('k', 'e'.repeat(64), '2026-01-02')),
  ) +
  1;

/** Returns the folder of an object's key with its last slash, or `''` for an object in the root. */
export function folderOf(key: string): string {
  return key.slice(0, key.lastIndexOf('/') + 1);
}
