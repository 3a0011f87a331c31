/** Parses the destination of an export in a request body. */
import type { FieldError } from '../shared/errors.ts';
import { parseBucketUrl } from './bucket-url.ts';
import { endpointError, normalizeEndpoint, withoutBucket } from './endpoint.ts';
import { bucketError, keyError, type Provider, regionError, trimSlashes } from './names.ts';

export interface Destination {
  readonly provider: Provider;
  readonly bucket: string;
  readonly region: string;
  /** Folder without slashes at its ends. May have placeholders. `''` is the root of the bucket. */
  readonly key: string;
  /** Normalized custom endpoint, perhaps with a path; null for other providers. */
  readonly endpoint: string | null;
}

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** Role at AWS that the service assumes, instead of an access key. */
export interface Role {
  readonly roleArn: string;
  /** Id of the environment that the trust policy of the role must demand. */
  readonly externalId: string;
}

/** Right to use a bucket. */
export type Access = Credentials | Role;

export function isRole(access: Access): access is Role {
  return 'roleArn' in access;
}

/** Members of a config's body that describe the destination. Others are ignored. */
export interface DestinationBody {
  readonly provider: Provider;
  readonly bucketUrl?: string;
  readonly bucket?: string;
  readonly region?: string;
  readonly key?: string;
  readonly endpoint?: string;
}

export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly errors: readonly FieldError[] };

export const destinationFields = ['bucketUrl', 'bucket', 'region', 'key', 'endpoint'] as const;
export type DestinationField = (typeof destinationFields)[number];

const ownFields: Readonly<Record<Provider, readonly DestinationField[]>> = {
  aws: ['bucketUrl'],
  gcp: ['bucket', 'region', 'key'],
  custom: ['endpoint', 'bucket', 'region', 'key'],
};

/** Returns the fields that belong to a provider. */
export function fieldsOf(provider: Provider): readonly DestinationField[] {
  return ownFields[provider];
}

/**
 * Parses a destination. Values are trimmed. Each invalid field has one error, in the order of the
 * fields.
 */
export function parseDestination(body: DestinationBody): Parsed<Destination> {
  const own = ownFields[body.provider];
  const foreign = destinationFields
    .filter(field => !own.includes(field) && body[field] !== undefined)
    .map(field => ({
      path: `/${field}`,
      message: `does not belong to the provider "${body.provider}"`,
    }));
  const parsed = body.provider === 'aws' ? parseAws(body) : parseParts(body);
  if (!parsed.ok) return { ok: false, errors: [...foreign, ...parsed.errors] };
  return foreign.length === 0 ? parsed : { ok: false, errors: foreign };
}

/** Parses credentials. Trims spaces and line breaks, which pasted keys often have. */
export function parseCredentials(body: Credentials): Parsed<Credentials> {
  const value = {
    accessKeyId: body.accessKeyId.trim(),
    secretAccessKey: body.secretAccessKey.trim(),
  };
  const errors: FieldError[] = [];
  // A slash or comma would change the meaning of the Authorization header that carries the id.
  if (!/^[\x21-\x7e]{1,128}$/.test(value.accessKeyId) || /[/,]/.test(value.accessKeyId)) {
    errors.push({
      path: '/accessKeyId',
      message: 'must be 1 to 128 printable characters without spaces, "/" and ","',
    });
  }
  if (!/^[\x21-\x7e]{1,256}$/.test(value.secretAccessKey)) {
    errors.push({
      path: '/secretAccessKey',
      message: 'must be 1 to 256 printable characters without spaces',
    });
  }
  return errors.length === 0 ? { ok: true, value } : { ok: false, errors };
}

/** Parses the ARN of a role. Trims spaces and line breaks. */
export function parseRoleArn(text: string, provider: Provider): Parsed<string> {
  const path = '/roleArn';
  const value = text.trim();
  const refuse = (message: string) => ({ ok: false as const, errors: [{ path, message }] });
  if (provider !== 'aws') return refuse(`does not belong to the provider "${provider}"`);
  return /^arn:aws(?:-cn|-us-gov)?:iam::\d{12}:role\/[\w+=,.@/-]{1,512}$/.test(value)
    ? { ok: true, value }
    : refuse('must be the ARN of a role, such as "arn:aws:iam::123456789012:role/exports"');
}

function parseAws(body: DestinationBody): Parsed<Destination> {
  const location =
    body.bucketUrl === undefined ? 'is required' : parseBucketUrl(body.bucketUrl.trim());
  return typeof location === 'string'
    ? { ok: false, errors: [{ path: '/bucketUrl', message: location }] }
    : { ok: true, value: { provider: 'aws', ...location, endpoint: null } };
}

function parseParts(body: DestinationBody): Parsed<Destination> {
  const { provider } = body;
  const endpoint = provider === 'custom' ? body.endpoint?.trim() : undefined;
  const bucket = body.bucket?.trim();
  const region = body.region?.trim();
  const key = trimSlashes(body.key?.trim() ?? '');
  const errors = [
    provider === 'custom' && error('endpoint', endpoint, endpointError),
    error('bucket', bucket, name => bucketError(provider, name)),
    error('region', region, regionError),
    error('key', key, keyError),
    bucketInEndpoint(endpoint, bucket),
  ].filter(found => typeof found === 'object');
  if (errors.length > 0 || bucket === undefined || region === undefined)
    return { ok: false, errors };
  const normalized = endpoint === undefined ? null : normalizeEndpoint(endpoint);
  return { ok: true, value: { provider, bucket, region, key, endpoint: normalized } };
}

function bucketInEndpoint(
  endpoint: string | undefined,
  bucket: string | undefined,
): FieldError | undefined {
  if (endpoint === undefined || bucket === undefined || endpointError(endpoint) !== null) return;
  const better = withoutBucket(endpoint, bucket);
  if (better === null) return;
  const message = `names more than the storage: leave the bucket out of the endpoint, write ${better}`;
  return { path: '/endpoint', message };
}

function error(
  field: DestinationField,
  value: string | undefined,
  rule: (value: string) => string | null,
): FieldError | undefined {
  const message = value === undefined ? 'is required' : rule(value);
  return message === null ? undefined : { path: `/${field}`, message };
}
