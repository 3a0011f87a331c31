import { extensionOf, type FileForm } from '../shared/file-format.ts';

/** Computes the keys of the objects that a run writes. */

/** Values that determine the name of an object, apart from the folder. */
export interface ObjectName extends FileForm {
  readonly environmentId: string;
  /** YYYY-MM-DD */
  readonly snapshotDate: string;
}

/** Placeholders of a folder, with their values for one run. */
const placeholders = {
  '{date}': name => name.snapshotDate,
  '{year}': name => name.snapshotDate.slice(0, 4),
  '{month}': name => name.snapshotDate.slice(5, 7),
  '{day}': name => name.snapshotDate.slice(8, 10),
  '{environmentId}': name => name.environmentId,
} satisfies Record<string, (name: ObjectName) => string>;

export type Placeholder = keyof typeof placeholders;
export const placeholderNames = Object.keys(placeholders);

/** Matches placeholders, known or not. A split by it keeps them. */
export const placeholder = /(\{[^{}]*\})/g;

function isPlaceholder(text: string): text is Placeholder {
  return Object.hasOwn(placeholders, text);
}

/**
 * Returns the first unknown placeholder or stray brace of a folder, or null. Braces are reserved
 * for placeholders, so that a misspelt one is an error.
 */
export function unknownPlaceholder(folder: string): string | null {
  const unknown = folder.match(placeholder)?.find(text => !isPlaceholder(text));
  if (unknown !== undefined) return unknown;
  return /[{}]/.exec(folder.replaceAll(placeholder, ''))?.[0] ?? null;
}

/** Returns the folder with its placeholders replaced. Unknown placeholders stay. */
export function renderFolder(folder: string, name: ObjectName): string {
  return folder.replaceAll(placeholder, text =>
    isPlaceholder(text) ? placeholders[text](name) : text,
  );
}

/**
 * Returns `<folder>/company-adoption_<environmentId>_<snapshotDate>.csv`, with `.csv.gz` for gzip
 * and `.parquet` for Parquet.
 *
 * @param folder may have placeholders; `''` is the bucket's root
 */
export function objectKey(folder: string, name: ObjectName): string {
  return `${prefixOf(folder, name)}${fileName(name)}`;
}

/**
 * Returns `<folder>/_manifest/<file name of the object>.json`. Each object has its own manifest.
 */
export function manifestKey(folder: string, name: ObjectName): string {
  return `${prefixOf(folder, name)}_manifest/${fileName(name)}.json`;
}

/** Returns the folder of an object's key with its last slash, or `''` for an object in the root. */
export function folderOf(key: string): string {
  return key.slice(0, key.lastIndexOf('/') + 1);
}

function prefixOf(folder: string, name: ObjectName): string {
  return folder === '' ? '' : `${renderFolder(folder, name)}/`;
}

function fileName(name: ObjectName): string {
  return `company-adoption_${name.environmentId}_${name.snapshotDate}.${extensionOf(name)}`;
}

/** Name with the longest possible parts. */
export const longestName: ObjectName = {
  environmentId: 'e'.repeat(64),
  snapshotDate: '2026-01-02',
  format: 'parquet',
  compression: 'none',
};

/** Maximum length of a folder in bytes of UTF-8. S3 allows 1,024 for the whole key. */
export const maxKeyBytes = 1024 - Buffer.byteLength(manifestKey('k', longestName)) + 1;
