/** First bytes of formats that callers send instead of CSV by mistake. */
const signatures: readonly (readonly [bytes: readonly number[], message: string])[] = [
  [[0x1f, 0x8b], 'looks like gzip: send the header Content-Encoding: gzip'],
  [[0x50, 0x4b, 0x03, 0x04], 'looks like a zip or Excel file: send CSV, plain or as gzip'],
  [[0x50, 0x4b, 0x05, 0x06], 'looks like an empty zip file: send CSV, plain or as gzip'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'looks like zstd: send CSV, plain or as gzip'],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a], 'looks like xz: send CSV, plain or as gzip'],
  [[0x42, 0x5a, 0x68], 'looks like bzip2: send CSV, plain or as gzip'],
  [[0x50, 0x41, 0x52, 0x31], 'looks like Parquet: send CSV'],
  [[0xff, 0xfe, 0x00, 0x00], 'looks like UTF-32: send UTF-8'],
  [[0x00, 0x00, 0xfe, 0xff], 'looks like UTF-32: send UTF-8'],
  [[0xff, 0xfe], 'looks like UTF-16: send UTF-8'],
  [[0xfe, 0xff], 'looks like UTF-16: send UTF-8'],
];

/** Returns a message about the format of a body that is clearly not CSV in UTF-8, else null. */
export function looksLike(start: Buffer): string | null {
  const known = signatures.find(([bytes]) => bytes.every((byte, index) => start[index] === byte));
  if (known !== undefined) return known[1];
  // The header is ASCII. In UTF-16 every other byte of ASCII text is zero.
  const [first, second, third, fourth] = start;
  const isUtf16 =
    (first === 0 && third === 0 && second !== 0 && fourth !== 0) ||
    (first !== 0 && third !== 0 && second === 0 && fourth === 0);
  return isUtf16 ? 'looks like UTF-16: send UTF-8' : null;
}
