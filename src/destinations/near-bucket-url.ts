/** Explains why a text is not an Amazon bucket URL, and suggests the correct URL. */
import { bucketError, isAwsRegion, keyError, trimSlashes } from './names.ts';
import { formatFolder, parseFolder } from './url-folder.ts';

/** Parts of a bucket URL that a text contains. Absent parts are shown as `<bucket>` and so on. */
interface Guess {
  /** Completes the sentence that begins with "bucketUrl". */
  readonly what: string;
  readonly bucket?: string | undefined;
  readonly region?: string | undefined;
  /** Without slashes at its ends; undefined also if the text has no valid folder. */
  readonly key?: string | undefined;
}

/**
 * Returns the reason why a text is not a bucket URL, with the correct URL as far as it is known.
 */
export function describeNearMiss(text: string): string {
  const guess = notAmazon(text) ?? byScheme(text) ?? byHost(text) ?? { what: 'must look like' };
  if (guess.what.endsWith('.')) return guess.what.slice(0, -1);
  const separator = guess.what === 'must look like' ? ' ' : ': write ';
  return `${guess.what}${separator}${format(guess)}`;
}

/** Returns a URL that `parseBucketUrl` accepts after each `<…>` was replaced. */
function format({ bucket, region, key }: Guess): string {
  const knownBucket = bucket !== undefined && bucketError('aws', bucket) === null;
  const knownRegion = region !== undefined && isAwsRegion(region);
  const suffix = knownRegion && region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com';
  const host = `${knownBucket ? bucket : '<bucket>'}.s3.${knownRegion ? region : '<region>'}.${suffix}`;
  // Without a bucket the text was something else, and an empty folder means nothing.
  const known = knownBucket && key !== undefined && keyError(key) === null;
  const accepted = known ? keyOf(formatFolder(key)) : undefined;
  return `https://${host}${accepted === undefined ? '/<folder>' : formatFolder(accepted)}`;
}

/** Storage of other providers. Each text ends with a full stop: there is no bucket URL to write. */
const otherProviders: readonly (readonly [RegExp, string])[] = [
  [
    /^gs:\/\/|^[a-z]+:\/\/[^/]*(?:storage\.(?:googleapis|cloud\.google)\.com|console\.cloud\.google\.com)/i,
    'is an address of Google Cloud Storage: use "provider": "gcp" with bucket and region.',
  ],
  [
    /^[a-z]+:\/\/[^/]*\.(?:r2\.cloudflarestorage|digitaloceanspaces|backblazeb2|wasabisys|linodeobjects|vultrobjects|aliyuncs|myqcloud)\.com(?::\d*)?(?:\/|$)/i,
    'is not an address of Amazon S3: use "provider": "custom" with endpoint, bucket and region.',
  ],
];

function notAmazon(text: string): Guess | null {
  const what = otherProviders.find(([shape]) => shape.test(text))?.[1];
  return what === undefined ? null : { what };
}

function byScheme(text: string): Guess | null {
  const [, scheme, bucket, path] = /^(s3[an]?):\/\/([^/?#]*)\/?([^?#]*)/i.exec(text) ?? [];
  if (scheme !== undefined) {
    return {
      what: `must be an https URL, not an ${scheme.toLowerCase()}:// one`,
      bucket,
      key: trimSlashes(path ?? ''),
    };
  }
  if (!/^arn:/i.test(text)) return null;
  const [, , service, region = '', , resource = ''] = text.split(':');
  if (service === 's3' && region === '' && !/^(?:accesspoint|job)/.test(resource)) {
    const [arnBucket, ...folder] = resource.split('/');
    return {
      what: 'must be a URL, not an ARN',
      bucket: arnBucket,
      key: trimSlashes(folder.join('/')),
    };
  }
  return { what: accessPoint, region };
}

const accessPoint =
  'is the address of an access point, which is not supported; give the address of its bucket';

/** Explains a URL, with or without a scheme, by its host. */
function byHost(text: string): Guess | null {
  const [, scheme = '', rest = text] = /^([a-z]+:\/\/)?(.*)$/is.exec(text) ?? [];
  if (scheme !== '' && !/^https?:\/\/$/i.test(scheme)) return null;
  const [, authority = '', path = '', query = ''] =
    /^([^/?#\\]*)([^?#]*)\??([^#]*)/s.exec(rest) ?? [];
  const [, user, host = '', port] = /^(?:([^@]*)@)?([^:@]*)(:\d*)?$/.exec(authority) ?? [];
  const consoleGuess = byConsole(host, path, query);
  if (consoleGuess !== null) return consoleGuess;
  const parts = partsOf(host.toLowerCase(), trimSlashes(path));
  if (parts === null) return null;
  const what =
    parts.what ??
    (user !== undefined
      ? 'may not contain a user or password'
      : port !== undefined
        ? 'may not contain a port'
        : /[?#]/.test(rest)
          ? 'may not contain "?" or "#" (encode them in a folder name)'
          : scheme.toLowerCase() === 'https://'
            ? 'must be in lower case before the folder'
            : 'must start with https://');
  return { ...parts, what };
}

/**
 * Returns the parts of a host of Amazon S3. `what` is absent for a correct host.
 * @param path percent-encoded, without slashes at its ends
 */
function partsOf(host: string, path: string): Partial<Guess> | null {
  if (/\.(?:s3-accesspoint|s3-object-lambda|s3-outposts)(?:-fips)?\./.test(host)) {
    return { what: accessPoint, region: host.split('.').find(isAwsRegion) };
  }
  if (/\.(?:accesspoint|mrap)\.s3-global\./.test(host)) return { what: accessPoint };
  const vpc = /\.vpce-[a-z0-9-]+\.s3\.([a-z0-9-]+)\.vpce\.amazonaws\.com(?:\.cn)?$/.exec(host);
  if (vpc !== null) {
    return {
      what: 'is the address of a VPC endpoint, which cannot be reached from outside; give the public one',
      region: vpc[1],
    };
  }
  const [pathBucket = '', ...rest] = path.split('/');
  const express = /^(?:(.+)\.)?s3express-[a-z0-9-]+\.([a-z0-9-]+)\.amazonaws\.com$/.exec(host);
  if (express !== null) {
    const [, directoryBucket = pathBucket, region] = express;
    const problem = bucketError('aws', directoryBucket) ?? 'is not supported with this address';
    return { what: `names the bucket "${directoryBucket}", which ${problem}`, region };
  }
  const [, bucket, service, region] =
    /^(?:(.+)\.)?(s3(?:-fips|-accelerate|-website)?(?:\.dualstack)?)(?:[.-]([a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?$/.exec(
      host,
    ) ?? [];
  if (service === undefined) return null;
  const known =
    bucket === undefined
      ? { bucket: pathBucket, region, key: keyOf(rest.join('/')) }
      : { bucket, region, key: keyOf(path) };
  const what = serviceError(service, host, bucket, region);
  return what === null ? known : { ...known, what };
}

function serviceError(
  service: string,
  host: string,
  bucket: string | undefined,
  region: string | undefined,
): string | null {
  if (service.includes('-fips')) return 'must be the plain address, without "fips"';
  if (service.includes('-website')) return 'is the address of a website';
  if (service.includes('-accelerate')) return 'must be the plain address, without "accelerate"';
  if (service.includes('dualstack')) return 'must be the plain address, without "dualstack"';
  if (bucket === undefined) return 'must have the bucket in the host name, not in the path';
  if (region === undefined) return 'must name the region';
  return host.includes(`.s3-${region}.`) ? 'must have ".s3.<region>", with a dot' : null;
}

/** Explains a URL of the AWS console, which has the bucket in its path. */
function byConsole(host: string, path: string, query: string): Guess | null {
  if (!/(?:^|\.)console\.(?:aws\.amazon\.com|amazonaws\.cn|amazonaws-us-gov\.com)$/i.test(host)) {
    return null;
  }
  const [, bucket, folder] = /^\/s3\/(?:buckets|object|upload)\/([^/]+)\/?(.*)/.exec(path) ?? [];
  const params = new URLSearchParams(query);
  const fromHost = /^([a-z0-9-]+)\.console\./i.exec(host)?.[1];
  return {
    what: 'is the address of the AWS console',
    bucket,
    region: params.get('region') ?? fromHost,
    key: params.has('prefix')
      ? trimSlashes(params.get('prefix') ?? '')
      : keyOf(trimSlashes(folder ?? '')),
  };
}

function keyOf(path: string): string | undefined {
  const folder = parseFolder(path);
  return 'key' in folder ? folder.key : undefined;
}
