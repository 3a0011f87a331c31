import { parseString } from 'fast-csv';

/**
 * Reads strict RFC 4180 CSV, without code of the service. One rule of docs/file-format.md is added
 * that readers from packages lack: an empty field without quotes is null, `""` is an empty string.
 */
export function parseCsv(text: string): (string | null)[][] {
  const records: (string | null)[][] = [];
  let record: (string | null)[] = [];
  let at = 0;
  while (at < text.length) {
    let field: string | null;
    if (text[at] === '"') {
      field = '';
      at += 1;
      while (true) {
        const closing = text.indexOf('"', at);
        if (closing === -1) throw new Error('a quote is never closed');
        field += text.slice(at, closing);
        at = closing + 1;
        if (text[at] !== '"') break;
        field += '"';
        at += 1;
      }
    } else {
      const start = at;
      while (at < text.length && text[at] !== ',' && text[at] !== '\n') at += 1;
      const plain = text.slice(start, at);
      if (/["\r]/.test(plain))
        throw new Error(`a field that should have quotes: ${JSON.stringify(plain)}`);
      field = plain === '' ? null : plain;
    }
    record.push(field);
    if (at === text.length) throw new Error('the last line has no line break');
    if (text[at] === '\n') {
      records.push(record);
      record = [];
    } else if (text[at] !== ',') {
      throw new Error('text after a closing quote');
    } else if (text[at + 1] === undefined) {
      throw new Error('ends with a comma');
    }
    at += 1;
  }
  return records;
}

/** Reads CSV with a package, which does not tell null from the empty string. */
export async function parseWithPackage(text: string): Promise<string[][]> {
  return await parseString<string[], string[]>(text).toArray();
}

/** Returns the items of a list field: joined by commas and quoted inside where needed. */
export function parseList(text: string): string[] {
  if (text === '') return [];
  return (parseCsv(`${text}\n`)[0] ?? []).map(item => item ?? '');
}
