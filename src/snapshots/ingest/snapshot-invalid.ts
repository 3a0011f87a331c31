import { AppError } from '../../shared/errors.ts';

/** What is wrong with one field of a snapshot body. Row 1 is the first after the header, row 0 the header. */
export interface RowFault {
  readonly row: number;
  /** The header of the column; null where no one column is at fault. */
  readonly column: string | null;
  readonly message: string;
}

/** The most faults that an answer names. */
export const faultLimit = 20;

/** @param errorCount how many faults there are in all; `faults` are the first of them */
export function snapshotInvalid(faults: readonly RowFault[], errorCount = faults.length): AppError {
  const [first] = faults;
  const where =
    first === undefined
      ? ''
      : ` The first: row ${first.row}, ${first.column ?? 'the whole row'}: ${first.message}.`;
  const count = errorCount === 1 ? 'one fault' : `${errorCount} faults`;
  return new AppError('snapshot_invalid', `The snapshot has ${count} and was not loaded.${where}`, {
    members: { errors: faults, errorCount },
  });
}
