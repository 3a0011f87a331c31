import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import type { S3Client } from '@aws-sdk/client-s3';

/**
 * Makes a client send Content-MD5 with every PutObject and UploadPart. Buckets with Object Lock
 * refuse uploads without a digest: Amazon, Backblaze B2 and others answer 400 InvalidRequest. Every
 * S3-compatible storage knows Content-MD5, but several refuse the newer `x-amz-checksum-*` headers.
 */
export function addContentMd5(client: S3Client): void {
  client.middlewareStack.add(
    next => async args => {
      const { Body } = args.input as { readonly Body?: unknown };
      const isInMemory = typeof Body === 'string' || Body instanceof Uint8Array;
      if (!isInMemory) return await next(args);
      return await next({ ...args, input: { ...args.input, ContentMD5: await md5(Body) } });
    },
    { step: 'initialize', name: 'addContentMd5' },
  );
}

/** Bytes to hash between turns of the event loop, about 2 ms. */
const sliceBytes = 1024 * 1024;

async function md5(body: string | Uint8Array): Promise<string> {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  const hash = createHash('md5');
  for (let start = 0; start < bytes.length; start += sliceBytes) {
    if (start > 0) await setImmediate();
    hash.update(bytes.subarray(start, start + sliceBytes));
  }
  return hash.digest('base64');
}
