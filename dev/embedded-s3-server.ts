import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import S3rver from '@20minutes/s3rver';

export interface EmbeddedS3Server {
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Buckets that exist at the start. Both are empty. */
  readonly buckets: { readonly kept: 'warehouse'; readonly doomed: 'archive' };
  readonly stop: () => Promise<void>;
}

/**
 * Starts an S3 endpoint from npm on a free port of 127.0.0.1, with its files in `directory`.
 * Objects can be read without a key. It needs no installation, but lacks permissions and other
 * features of S3: tests use `s3-server.ts`.
 */
export async function startEmbeddedS3Server(directory: string): Promise<EmbeddedS3Server> {
  const buckets = { kept: 'warehouse', doomed: 'archive' } as const;
  const files = path.join(directory, 's3');
  await mkdir(files);
  const server = new S3rver({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory: files,
    vhostBuckets: false,
    // `mendS3rver` changes the query, so signatures no longer match. Unknown keys are refused.
    allowMismatchedSignatures: true,
    configureBuckets: Object.values(buckets).map(name => ({ name })),
  });
  server.middleware.unshift(mendS3rver);
  const { port } = await server.run();
  return {
    endpoint: `http://127.0.0.1:${port}`,
    region: 'us-east-1',
    // The only key pair that s3rver accepts.
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
 * Adds what s3rver 5 lacks and an export needs.
 * Answers AbortMultipartUpload with success. The parts stay until the directory is deleted.
 * Returns listings in one page, because continuation tokens need a cipher that OpenSSL 3 lacks.
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
