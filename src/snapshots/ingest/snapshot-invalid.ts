import { AppError } from '../../shared/errors.ts';

/**
 * Invalid field of a body. Row 1 is the first after the header. Row 0 is the header or the body.
 */
export interface FieldError {
  readonly row: number;
  /** Header of the column; null if the error concerns no single column. */
  readonly column: string | null;
  readonly message: string;
}

/** Maximum number of errors that a response lists. */
const errorLimit = 20;

/** Collects the errors of a body. Keeps the first 20 and counts all. */
export interface FieldErrors {
  readonly count: number;
  add(row: number, column: string | null, message: string): void;
  /** Adds an error before the errors found so far. */
  addFirst(row: number, column: string | null, message: string): void;
  /** @throws AppError `snapshot_invalid` if there is an error */
  throwIfAny(): void;
}

export function createFieldErrors(): FieldErrors {
  const first: FieldError[] = [];
  let count = 0;
  return {
    get count() {
      return count;
    },
    add(row, column, message) {
      count += 1;
      if (first.length < errorLimit) first.push({ row, column, message });
    },
    addFirst(row, column, message) {
      count += 1;
      first.unshift({ row, column, message });
      first.splice(errorLimit);
    },
    throwIfAny() {
      if (count > 0) throw snapshotInvalid(first, count);
    },
  };
}

function snapshotInvalid(errors: readonly FieldError[], errorCount: number): AppError {
  const [first] = errors;
  const where =
    first === undefined
      ? ''
      : ` The first: row ${first.row}, ${first.column ?? 'the whole row'}: ${first.message}.`;
  const number = errorCount === 1 ? 'one error' : `${errorCount} errors`;
  return new AppError(
    'snapshot_invalid',
    `The snapshot has ${number} and was not stored.${where}`,
    {
      members: { errors, errorCount },
    },
  );
}
