import t from 'tap';
import { AppError } from '../../../src/shared/errors.ts';
import { columns } from '../../../src/snapshots/columns.ts';
import { matchHeader } from '../../../src/snapshots/ingest/header.ts';
import { exportHeader, ingestColumns } from '../../helpers/adoption-rows.ts';

const names = (header: readonly string[]) => matchHeader(header).map(column => column.header);

function errorsOf(header: readonly string[]): { errors: unknown[]; errorCount: number } {
  try {
    matchHeader(header);
  } catch (error) {
    if (error instanceof AppError && error.code === 'snapshot_invalid')
      return error.members as never;
  }
  throw new Error('the header was accepted');
}

t.test('accepts the required columns in any order', async t => {
  t.strictSame(names(ingestColumns), ingestColumns);
  t.strictSame(names([...ingestColumns].reverse()), [...ingestColumns].reverse());
});

t.test('accepts the header of an exported file', async t => {
  const header = exportHeader.trimEnd().split(',');
  t.strictSame(
    columns.map(column => column.header),
    header,
  );
  t.strictSame(names(header), header);
});

t.test('refuses more than 64 columns', async t => {
  const { errors } = errorsOf([...ingestColumns, ...Array.from({ length: 51 }, () => 'x')]);
  t.strictSame(errors[0], { row: 0, column: null, message: 'has more than 64 columns' });
});

for (const column of ingestColumns) {
  t.test(`refuses a header without ${column}`, async t => {
    t.strictSame(errorsOf(ingestColumns.filter(name => name !== column)), {
      errors: [{ row: 0, column, message: 'is missing from the header' }],
      errorCount: 1,
    });
  });
}

for (const column of [...ingestColumns, 'Date', 'Frequency Label']) {
  t.test(`refuses a header with ${column} twice`, async t => {
    const header = [...ingestColumns, 'Date', 'Frequency Label', column];
    t.strictSame(errorsOf(header), {
      errors: [{ row: 0, column, message: 'is repeated in the header' }],
      errorCount: 1,
    });
  });
}

for (const unknown of [
  'company id',
  'Company ID ',
  ' Company ID',
  '',
  'Company\u00a0ID',
  '__proto__',
  'constructor',
]) {
  t.test(`refuses the unknown column ${JSON.stringify(unknown)}`, async t => {
    t.strictSame(errorsOf([...ingestColumns, unknown]), {
      errors: [{ row: 0, column: unknown, message: 'is not a column of the data model' }],
      errorCount: 1,
    });
  });
}

t.test('names the first 20 errors of a header and counts all', async t => {
  const { errors, errorCount } = errorsOf(Array.from({ length: 30 }, (_, index) => `x${index}`));
  t.equal(errors.length, 20);
  t.equal(errorCount, 30 + ingestColumns.length);
});

t.test('shortens a very long column name in the answer', async t => {
  const { errors } = errorsOf([...ingestColumns, 'x'.repeat(100_000)]);
  t.ok(JSON.stringify(errors).length < 400);
});
