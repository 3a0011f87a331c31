import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { columns, isStored } from '../../src/snapshots/columns.ts';

const page = fs.readFileSync(path.join(import.meta.dirname, '../../docs/file-format.md'), 'utf8');

t.test('docs/file-format.md lists the columns in their order', async t => {
  const [csv = ''] = page.split('## Parquet');
  const documented = [...csv.matchAll(/^\| (\d+) \| `([^`]+)` \| (\w+) \| (yes|no) \|/gm)].map(
    ([, number, header, , isNullable]) => [Number(number), header, isNullable === 'yes'],
  );
  t.strictSame(
    documented,
    columns.map((column, index) => [
      index + 1,
      column.header,
      'nullable' in column ? column.nullable : false,
    ]),
  );
});

t.test('docs/file-format.md lists every label', async t => {
  for (const column of columns) {
    if (column.kind !== 'label') continue;
    for (const [value, label] of Object.entries(column.labels)) {
      t.ok(page.includes(`${value} \`${label}\``), `${column.header}: ${value} ${label}`);
    }
  }
});

t.test('docs/file-format.md names the columns that a body must have', async t => {
  const [, list = ''] = /These are required: ([\s\S]+?)\.\s/.exec(page) ?? [];
  const named = list
    .replaceAll('\n', ' ')
    .split(/, | and /)
    .map(name => name.trim());
  t.strictSame(
    named.sort(),
    columns
      .filter(isStored)
      .map(column => column.header)
      .sort(),
  );
});
