import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import S3rver from '@20minutes/s3rver';

export interface EmbeddedStorage {
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Made at the start, empty. */
  readonly buckets: { readonly kept: 'warehouse'; readonly doomed: 'archive' };
  readonly stop: () => Promise<void>;
}

/** An S3 endpoint on a free loopback port, its files in `directory`. Objects can be read without a key. */
export async function startStorage(directory: string): Promise<EmbeddedStorage> {
  const buckets = { kept: 'warehouse', doomed: 'archive' } as const;
  const files = path.join(directory, 's3');
  await mkdir(files);
  const server = new S3rver({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory: files,
    vhostBuckets: false,
    // It signs what is left of a query once `mendS3rver` is done; an unknown key is refused all the same.
    allowMismatchedSignatures: true,
    configureBuckets: Object.values(buckets).map(name => ({ name })),
  });
  server.middleware.unshift(mendS3rver);
  const { port } = await server.run();
  return {
    endpoint: `http://127.0.0.1:${port}`,
    region: 'us-east-1',
    // The one pair that s3rver knows.
    accessKeyId: 'S3RVER',
    secretAccessKey: 'S3RVER',
    buckets,
    stop: async () => {
      server.httpServer.closeAllConnections();
      await server.close();
    },
  };
}

/**
 * Two things that s3rver 5 lacks and an export needs. AbortMultipartUpload is MethodNotAllowed there: an aborted upload
 * is simply left alone, nobody sees it, and its files go with the directory. And a listing that is cut short fails, as
 * its continuation token wants a cipher that OpenSSL 3 no longer has: so listings are not cut short.
 */
const mendS3rver: S3rver.Middleware = async (context, next) => {
  const { 'max-keys': _maxKeys, ...query } = context.query;
  if (context.method === 'DELETE' && 'uploadId' in query) {
    context.status = 204;
    return;
  }
  context.query = query;
  await next();
};
