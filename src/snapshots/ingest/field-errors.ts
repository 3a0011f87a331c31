import { AppError } from '../../shared/errors.ts';

/**
 * Invalid field of a body. Row 1 is the first after the header. Row 0 is the header or the body.
 */
interface FieldError {
  readonly row: number;
  /** Header of the column; null if the error concerns no single column. */
  readonly column: string | null;
  readonly message: string;
}

/** Maximum number of errors that a response lists. */
const maxListed = 20;

/** Errors of a body. Keeps the first 20 and counts all. */
export class FieldErrors {
  count = 0;
  readonly #first: FieldError[] = [];

  add(row: number, column: string | null, message: string): void {
    this.count += 1;
    if (this.#first.length < maxListed) this.#first.push({ row, column, message });
  }

  /** Adds an error before the errors found so far. */
  addFirst(row: number, column: string | null, message: string): void {
    this.count += 1;
    this.#first.unshift({ row, column, message });
    this.#first.splice(maxListed);
  }

  /** @throws AppError `snapshot_invalid` if there is an error */
  throwIfAny(): void {
    const [first] = this.#first;
    if (first === undefined) return;
    const number = this.count === 1 ? 'one error' : `${this.count} errors`;
    const where = `${placeOf(first)}: ${first.message}`;
    throw new AppError(
      'snapshot_invalid',
      `The snapshot has ${number} and was not stored. The first: ${where}.`,
      { members: { errors: this.#first, errorCount: this.count } },
    );
  }
}

function placeOf({ row, column }: FieldError): string {
  if (row === 0) return column === null ? 'the body' : `the header, ${column}`;
  return `row ${row}, ${column ?? 'the whole row'}`;
}
