import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import S3rver from '@20minutes/s3rver';

export interface EmbeddedBucket {
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string;
  readonly bucket: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly stop: () => Promise<void>;
}

/** An S3 endpoint with one bucket on a free loopback port, its files in `directory`. Objects can be read without a key. */
export async function startBucket(directory: string): Promise<EmbeddedBucket> {
  const bucket = 'warehouse';
  const files = path.join(directory, 's3');
  await mkdir(files);
  const server = new S3rver({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory: files,
    vhostBuckets: false,
    allowMismatchedSignatures: true,
    configureBuckets: [{ name: bucket }],
  });
  const { port } = await server.run();
  return {
    endpoint: `http://127.0.0.1:${port}`,
    bucket,
    // The one pair that s3rver knows.
    accessKeyId: 'S3RVER',
    secretAccessKey: 'S3RVER',
    stop: async () => {
      server.httpServer.closeAllConnections();
      await server.close();
    },
  };
}
