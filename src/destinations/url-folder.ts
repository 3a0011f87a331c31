/** Parses and formats the percent-encoded folder of a bucket URL. */
import { keyError } from './names.ts';

/**
 * Decodes the path of a bucket URL. Trailing slashes and spaces are dropped. `exports%2F` is the
 * folder `exports` too.
 *
 * @returns the folder, or the reason for its rejection as text that completes "bucketUrl …"
 */
export function parseFolder(path: string): { readonly key: string } | { readonly error: string } {
  if (path.includes('+')) {
    return {
      error:
        'has a "+" in the folder, which may mean a space: write "%20" for a space and "%2B" for a plus sign',
    };
  }
  const key = decode(path);
  if (key === null) {
    return {
      error:
        'has a "%" that is not followed by two hexadecimal digits of UTF-8; write "%25" for it',
    };
  }
  const badKey = keyError(key);
  return badKey === null ? { key } : { error: `has a folder that ${badKey}` };
}

/** Returns null if the path is not percent-encoded UTF-8. */
function decode(path: string): string | null {
  try {
    // One leading slash belongs to the URL. A second one is an empty segment.
    return decodeURIComponent(path.replace(/^\//, '')).trim().replace(/\/+$/, '');
  } catch {
    return null;
  }
}

/** Returns the path that `parseFolder` decodes to `key`. Placeholders stay readable. */
export function formatFolder(key: string): string {
  if (key === '') return '';
  const segments = key.split('/').map(encodeURIComponent);
  return `/${segments.join('/').replaceAll('%7B', '{').replaceAll('%7D', '}')}`;
}
