import { Type } from '@fastify/type-provider-typebox';
import { date, documentedAs, instant, literals, nullable } from '../http/schemas.ts';
import type { ConfigOfEnvironment } from './list-configs.sql.ts';
import { type RunError, runErrorCodes } from './run-error.ts';
import { runTriggers } from './run-triggers.ts';
import {
  describeStatus,
  type ExportStatus,
  exportOutcomes,
  type WaitingFor,
  waitingReasons,
} from './status.ts';

/** Defines the schemas of the status of automatic exports and of the errors of runs. */

export const runTrigger = literals(runTriggers, {
  title: 'RunTrigger',
  description:
    '`redelivery`: the snapshot was replaced after its delivery. `backfill`: a backfill started the run.',
});

const runErrorCode = literals(runErrorCodes, {
  title: 'RunErrorCode',
  description: 'Code of a storage error, or the reason why the service ended the run.',
});
export const runErrorSchema = Type.Object(
  {
    code: documentedAs(Type.String(), runErrorCode),
    message: Type.String(),
    hint: Type.Optional(
      Type.String({ description: 'How to correct the error; absent if unknown.' }),
    ),
  },
  { title: 'RunError' },
);
export const runError = Type.Unsafe<RunError | null>({
  anyOf: [runErrorSchema, { type: 'null' }],
});

export const outcomeSchema = literals(exportOutcomes, {
  title: 'ExportOutcome',
  description: 'Outcome of the last finished run.',
});

const currentRunSchema = Type.Object(
  {
    id: Type.String(),
    trigger: runTrigger,
    snapshotDate: date('Date of the exported snapshot.'),
    state: literals(['queued', 'running'], { title: 'CurrentRunState' }),
    waitingFor: Type.Unsafe<WaitingFor | null>({
      type: ['string', 'null'],
      enum: [...waitingReasons, null],
      description:
        '`snapshot`: it is not ingested yet. `worker`: the run starts soon. `retry`: the run waits for its next attempt. Null while an attempt is made.',
    }),
    attempts: Type.Integer({ description: 'Attempts that have begun.' }),
    nextAttemptAt: nullable(instant('Time of the next attempt if `waitingFor` is `retry`.')),
    error: { ...runError, description: 'Error of the last attempt; null if there was none.' },
  },
  { title: 'CurrentRun' },
);

export const statusSchema = Type.Object(
  {
    status: outcomeSchema,
    running: Type.Boolean(),
    lastRunAt: nullable(instant('End of the last finished run.')),
    lastSuccessfulRunAt: nullable(instant('End of the last successful run.')),
    lastDeliveredDate: nullable(
      date('Newest snapshot date that was delivered; null before the first delivery.'),
    ),
    nextRunAt: nullable(
      instant('Next slot; null if the config is turned off or the plan does not allow it.'),
    ),
    error: {
      ...runError,
      description: 'Error of the last finished run; null if it was successful.',
    },
    turnedOff: Type.Unsafe<ExportStatus['turnedOff']>({
      anyOf: [
        Type.Object(
          {
            code: literals(['too_many_failures']),
            message: Type.String(),
            at: instant(),
          },
          { title: 'TurnedOff' },
        ),
        { type: 'null' },
      ],
      description:
        'Present if the service turned the config off because ten slots in a row failed with a configuration error. Null once it is turned on again.',
    }),
    currentRun: Type.Unsafe<ExportStatus['currentRun']>({
      anyOf: [currentRunSchema, { type: 'null' }],
      description: 'Unfinished run of the config, or null.',
    }),
  },
  { title: 'ExportConfigStatus', description: 'Status of an export config.' },
);

export const overviewSchema = Type.Object(
  {
    environmentId: Type.String(),
    configId: Type.String(),
    name: Type.String(),
    enabled: Type.Boolean(),
    ...statusSchema.properties,
  },
  {
    title: 'ExportConfigOverview',
    description: 'Export config of any environment, with its status.',
  },
);

/** Converts a stored config to its line in the overview of all environments. */
export function presentOverview({ config, history, plan }: ConfigOfEnvironment, now: Date) {
  return {
    environmentId: config.environmentId,
    configId: config.id,
    name: config.name,
    enabled: config.enabled,
    ...describeStatus(config, history, plan, now),
  };
}
