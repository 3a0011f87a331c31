import { Type } from '@fastify/type-provider-typebox';
import { storageErrorCodes } from '../destinations/s3/errors.ts';
import { documentedAs, literals } from '../http/schemas.ts';

/** Defines the schemas of the checks of a destination. */

const storageErrorCode = literals(storageErrorCodes, { title: 'StorageErrorCode' });
const storageErrorSchema = Type.Object(
  {
    code: documentedAs(Type.String(), storageErrorCode),
    message: Type.String(),
    hint: Type.String({ description: 'How to correct the error.' }),
  },
  { title: 'StorageError' },
);
const checkSchema = Type.Object(
  {
    name: literals(['list', 'write'], { title: 'CheckName' }),
    ok: Type.Boolean(),
    error: Type.Unsafe<{ code: string; message: string; hint: string } | null>({
      anyOf: [storageErrorSchema, { type: 'null' }],
    }),
  },
  { title: 'DestinationCheck' },
);
export const checkResultSchema = Type.Object(
  {
    valid: Type.Boolean({ description: 'True if both checks passed.' }),
    checks: Type.Array(checkSchema),
  },
  { title: 'DestinationCheckResult', description: 'Result of the checks.' },
);

/** Members of the problem `storage_validation_failed`. */
export const storageProblemMembers = {
  storageError: storageErrorSchema,
  checks: Type.Array(checkSchema, {
    description: '`storage_validation_failed`: results of the checks `list` and `write`.',
  }),
};
