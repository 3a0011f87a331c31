/** Version of the package hyparquet-writer. A test compares it with the installed one. */
export const writerVersion = '0.17.0';

/** Version of the conversion in this folder. Change it when equal rows shall give other bytes. */
const conversion = 1;

/** Name of the writing program in the file. Readers parse it, so it has their usual form. */
export const createdBy = `warehouse-export version ${conversion} (build hyparquet-writer ${writerVersion})`;

export const codec = 'ZSTD';
export const compressionLevel = 3;

/** Identifies what determines the bytes of a Parquet file, except its columns and rows. */
export const parquetRenderer = `${createdBy} ${codec} ${compressionLevel} ${process.versions['zstd']}`;
