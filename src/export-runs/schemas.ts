import { Type } from '@fastify/type-provider-typebox';
import { environmentParams } from '../environments/routes.ts';
import { configParams, id } from '../export-configs/schemas.ts';
import { runError, runTrigger } from '../export-configs/status-schemas.ts';
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
    trigger: runTrigger,
    backfillId: nullable(Type.String({ description: 'Backfill that started the run, or null.' })),
    slot: nullable(instant('Scheduled instant; null for other triggers than `schedule`.')),
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

/** Maximum number of days in the range of a backfill. */
export const maxBackfillDays = 366;

export const backfillParams = Type.Object({
  ...configParams.properties,
  backfillId: id('The backfill.'),
});

export const backfillInput = Type.Object(
  {
    from: date('First snapshot date.'),
    to: date(`Last snapshot date, included. At most ${maxBackfillDays} days, the first included.`),
  },
  { title: 'BackfillInput', additionalProperties: false },
);

export const backfillSchema = Type.Object(
  {
    id: Type.String(),
    configId: Type.String(),
    from: date('First snapshot date.'),
    to: date('Last snapshot date, included.'),
    state: literals(['running', 'finished', 'cancelled'], { title: 'BackfillState' }),
    total: Type.Integer({ description: 'Snapshots in the range when the backfill was started.' }),
    successful: Type.Integer({ description: 'Successful runs.' }),
    failed: Type.Integer({ description: 'Failed runs, cancelled ones included.' }),
    createdAt: instant(),
    finishedAt: nullable(instant('Null while the state is `running`.')),
  },
  { title: 'Backfill', description: 'Export of all snapshots of a range of dates.' },
);
