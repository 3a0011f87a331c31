import { Type } from '@fastify/type-provider-typebox';
import { date, literals } from '../http/schemas.ts';
import { type ErrorCode, validationFailed } from '../shared/errors.ts';
import { mediaTypes } from '../shared/file-format.ts';
import { isoDate } from '../shared/iso-date.ts';
import { headerLine } from '../snapshots/columns.ts';
import { aggregations } from './aggregations.ts';

/** Defines the schemas that the routes of exports and of download links share. */

export const aggregationSchema = literals(aggregations, {
  title: 'Aggregation',
  description: 'One of the four exports.',
  examples: ['30-days-daily'],
});

export const asOfSchema = date(
  'UTC date on which the file is based. Default: the current date. Not in the future.',
);

/** Earliest `asOf`, so that no shown date is before year 1. No snapshot is that old. */
const earliestAsOf = '1970-01-01';

/**
 * Checks the range of `asOf`.
 * @throws AppError `validation_failed`
 */
export function requireAsOf(asOf: string | undefined, path: string, now: Date): void {
  if (asOf === undefined) return;
  if (asOf > isoDate(now)) throw validationFailed([{ path, message: 'is in the future' }]);
  if (asOf < earliestAsOf) {
    throw validationFailed([{ path, message: `must not be before ${earliestAsOf}` }]);
  }
}

const example = `${headerLine}c2,,Export,f1,2026-03-02,2026-01-15T00:00:00.000Z,2026-01-15T00:00:00.000Z,,,never,1,never,0,not rated,,0,"",""\n`;

const validatorHeaders = {
  etag: Type.String({ description: 'Strong entity tag. Equal bytes have equal tags.' }),
  'last-modified': Type.String({
    description:
      'Time at which the newest snapshot of the file was completed; absent if there is none. A ' +
      'deletion does not change it, so prefer `ETag`.',
  }),
  'cache-control': Type.String({ examples: ['private, no-cache'] }),
};

const fileHeaders = {
  ...validatorHeaders,
  'content-disposition': Type.String({
    examples: ['attachment; filename="acme_today_2026-03-02.csv"'],
  }),
  'x-total-rows': Type.Integer({ description: 'Number of rows of the whole file.' }),
  'x-missing-dates': Type.String({
    description: 'Dates without a snapshot, separated by commas; absent if there are none.',
  }),
  'accept-ranges': Type.String({
    description: '`bytes`, with `content-length`, once all snapshots of the file are rendered.',
  }),
};

type Extension = keyof typeof mediaTypes;

function contentOf(extensions: readonly Extension[]) {
  return Object.fromEntries(
    extensions.map(extension => {
      const options = extension === 'csv' ? { examples: [example] } : { format: 'binary' };
      return [mediaTypes[extension], { schema: Type.String(options) }];
    }),
  );
}

/** The length of a Parquet file is unknown beforehand, so it has no ranges. */
const hasRanges = (extension: Extension) => extension !== 'parquet';

/** Returns the responses without problems of a route that sends files with these extensions. */
export function fileResponses(...extensions: Extension[]) {
  const ranged = extensions.filter(hasRanges);
  const part = {
    description:
      'The requested range of the file. A request for several ranges gets the whole file.',
    headers: {
      ...fileHeaders,
      'content-range': Type.String({ examples: ['bytes 1048576-1205850223/1205850224'] }),
    },
    content: contentOf(ranged),
  };
  return {
    200: {
      description:
        'The file. CSV: UTF-8, no BOM, LF, RFC 4180 quotes where needed, null as an empty field and an empty string as `""`. A failure after the first byte resets the connection.',
      headers: fileHeaders,
      content: contentOf(extensions),
    },
    ...(ranged.length > 0 && { 206: part }),
    304: {
      description:
        'The file has not changed since `If-None-Match` or `If-Modified-Since`. A date counts only ' +
        'if it proves that; otherwise the file is sent again.',
      headers: validatorHeaders,
      // Without a type, the document would say that the answer has a JSON body.
      type: 'null',
    },
  };
}

/**
 * Returns the problems of a route that sends files with these extensions, in addition to those of
 * the caller.
 */
export function fileProblemCodes(...extensions: Extension[]): readonly ErrorCode[] {
  const always = ['validation_failed', 'precondition_failed', 'too_many_downloads'] as const;
  return extensions.some(hasRanges) ? [...always, 'range_not_satisfiable'] : always;
}
