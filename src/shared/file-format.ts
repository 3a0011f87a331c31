import type { FieldError } from './errors.ts';

/** Formats of an exported file. */
export const fileFormats = ['csv', 'parquet'] as const;
export type FileFormat = (typeof fileFormats)[number];

/** Compressions of a file as a whole. */
export const compressions = ['none', 'gzip'] as const;
export type Compression = (typeof compressions)[number];

export interface FileForm {
  readonly format: FileFormat;
  /** `none` for Parquet, which compresses its pages. */
  readonly compression: Compression;
}

/** Media types of files by the extension of their names. */
export const mediaTypes = {
  csv: 'text/csv',
  'csv.gz': 'application/gzip',
  parquet: 'application/vnd.apache.parquet',
} as const;

export function extensionOf({ format, compression }: FileForm): keyof typeof mediaTypes {
  return format === 'csv' && compression === 'gzip' ? 'csv.gz' : format;
}

/** Returns the error of a body that asks for a compression that the format does not have. */
export function compressionErrors({ format, compression }: FileForm): FieldError[] {
  if (format === 'csv' || compression === 'none') return [];
  return [{ path: '/compression', message: 'must be none for the format parquet' }];
}
