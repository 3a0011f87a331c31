import { Type } from '@fastify/type-provider-typebox';
import { environmentParams } from '../environments/routes.ts';
import { configParams, id, runError } from '../export-configs/schemas.ts';
import { date, instant, literals, nullable } from '../http/schemas.ts';
import { runStates } from './run-states.ts';

/** Defines the schemas of runs. */

export const runParams = Type.Object({ ...environmentParams.properties, runId: id('The run.') });
export const configRunParams = Type.Object({ ...configParams.properties, runId: id('The run.') });

const nullableInteger = (description: string) =>
  Type.Unsafe<number | null>({ type: ['integer', 'null'], description });

export const runSchema = Type.Object(
  {
    id: Type.String(),
    configId: Type.String(),
    trigger: literals(['schedule', 'manual'], { title: 'RunTrigger' }),
    slot: nullable(instant('Scheduled instant; null for a manual run.')),
    snapshotDate: date('Date of the exported snapshot.'),
    state: literals(runStates, {
      title: 'RunState',
      description: '`queued`: waiting for the snapshot, for a worker, or for the next attempt.',
    }),
    attempts: Type.Integer(),
    createdAt: instant(),
    startedAt: nullable(instant('Start of the first attempt.')),
    finishedAt: nullable(instant()),
    rowCount: nullableInteger('Rows in the file.'),
    bytes: nullableInteger('Size of the object as stored.'),
    sha256: nullable(Type.String({ description: 'SHA-256 of the object, hexadecimal.' })),
    objectKey: nullable(Type.String({ description: 'Key of the object in the bucket.' })),
    error: {
      ...runError,
      description: 'Error of the last attempt; null if there was none.',
    },
  },
  { title: 'Run', description: 'Execution of an export config.' },
);
