/** Decides whether two exports of one environment can write the same object. */
import type { FileForm } from '../shared/file-format.ts';
import type { Destination } from './destination.ts';
import { type Placeholder, placeholder } from './object-key.ts';

export interface ExportTarget extends FileForm {
  readonly destination: Destination;
}

/**
 * Returns true if both exports write the same object for some snapshot date. Placeholders are
 * compared by their values: `{date}` matches `{year}-{month}-{day}`, and `{year}` matches a folder
 * named `2026`.
 */
export function canWriteSameObject(
  environmentId: string,
  one: ExportTarget,
  other: ExportTarget,
): boolean {
  return (
    one.format === other.format &&
    one.compression === other.compression &&
    isSameBucket(one.destination, other.destination) &&
    foldersMeet(
      tokensOf(environmentId, one.destination.key),
      tokensOf(environmentId, other.destination.key),
    )
  );
}

function isSameBucket(one: Destination, other: Destination): boolean {
  return storageIdentity(one) === storageIdentity(other) && isSameName(one.bucket, other.bucket);
}

/** Ceph completes a name without a tenant by the tenant of the user, which is unknown here. */
function isSameName(one: string, other: string): boolean {
  return one === other || one.endsWith(`:${other}`) || other.endsWith(`:${one}`);
}

/**
 * Returns a key that is equal for destinations where bucket names are unique: at Google, in each
 * partition of Amazon, and at an endpoint. Of an endpoint host, port and path count, because http
 * and https of a host lead to the same storage.
 */
function storageIdentity({ provider, region, endpoint }: Destination): string {
  if (provider === 'gcp') return 'gcp';
  if (provider === 'aws' || endpoint === null) return partitionOf(region);
  const url = new URL(endpoint);
  const host = url.hostname.replace(/\.$/, '');
  if (host === 'storage.googleapis.com') return 'gcp';
  const [, hostRegion] =
    /^s3(?:[.-](?:dualstack\.|fips\.)?([a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?$/.exec(host) ?? [];
  if (host.startsWith('s3.amazonaws.com') || hostRegion !== undefined) {
    return partitionOf(hostRegion ?? '');
  }
  return `${host}:${url.port}${url.pathname}`;
}

function partitionOf(region: string): string {
  if (region.startsWith('cn-')) return 'aws-cn';
  return region.startsWith('us-gov-') ? 'aws-us-gov' : 'aws';
}

/** Character of a folder, or position of a digit in a date YYYYMMDD. */
type Token = string | number;

const year = [0, 1, 2, 3];
const month = [4, 5];
const day = [6, 7];
type DatePlaceholder = Exclude<Placeholder, '{environmentId}'>;
const digits: Readonly<Record<DatePlaceholder, readonly Token[]>> = {
  '{date}': [...year, '-', ...month, '-', ...day],
  '{year}': year,
  '{month}': month,
  '{day}': day,
};

function tokensOf(environmentId: string, folder: string): Token[] {
  return folder
    .replaceAll('{environmentId}', environmentId)
    .split(placeholder)
    .flatMap(part => (isDatePlaceholder(part) ? digits[part] : [...part]));
}

function isDatePlaceholder(text: string): text is DatePlaceholder {
  return Object.hasOwn(digits, text);
}

/** Pair of tokens that must be equal. */
type Pair = readonly [Token, Token];

function foldersMeet(one: readonly Token[], other: readonly Token[]): boolean {
  if (one.length !== other.length) return false;
  const pairs: Pair[] = [];
  for (const [index, token] of one.entries()) {
    const counterpart = other[index];
    if (counterpart === undefined || token === counterpart) continue;
    if (typeof token === 'string' && typeof counterpart === 'string') return false;
    pairs.push([token, counterpart]);
  }
  return pairs.length === 0 || isSomeDate(pairs);
}

/** Years of snapshots that this service can hold. */
const firstYear = 2000;
const lastYear = 2099;

/** Searches for a date that fits, year by year. Each level skips values that its digits exclude. */
function isSomeDate(pairs: readonly Pair[]): boolean {
  const decidedBy = (length: number) =>
    pairs.filter(pair => Math.max(...pair.filter(isPosition)) < length);
  const ofYear = decidedBy(4);
  const ofMonth = decidedBy(6);
  for (let y = firstYear; y <= lastYear; y += 1) {
    if (!hold(ofYear, String(y))) continue;
    for (let m = 1; m <= 12; m += 1) {
      const yearAndMonth = `${y}${String(m).padStart(2, '0')}`;
      if (!hold(ofMonth, yearAndMonth)) continue;
      const days = new Date(Date.UTC(y, m, 0)).getUTCDate();
      for (let d = 1; d <= days; d += 1) {
        if (hold(pairs, `${yearAndMonth}${String(d).padStart(2, '0')}`)) return true;
      }
    }
  }
  return false;
}

function isPosition(token: Token): token is number {
  return typeof token === 'number';
}

function hold(pairs: readonly Pair[], date: string): boolean {
  const read = (token: Token) => (isPosition(token) ? date[token] : token);
  return pairs.every(([one, other]) => read(one) === read(other));
}
