/** Types of the parts of @20minutes/s3rver that are used here. It ships none. */
declare module '@20minutes/s3rver' {
  import type { Server } from 'node:http';
  import type { AddressInfo } from 'node:net';

  interface Options {
    readonly address: string;
    /** 0 selects a free port. */
    readonly port: number;
    readonly silent: boolean;
    readonly directory: string;
    readonly vhostBuckets: boolean;
    readonly allowMismatchedSignatures: boolean;
    readonly configureBuckets: readonly { readonly name: string }[];
  }

  class S3rver {
    constructor(options: Options);
    /** Koa middleware, in the order of calls. */
    readonly middleware: S3rver.Middleware[];
    readonly httpServer: Server;
    run(): Promise<AddressInfo>;
    close(): Promise<void>;
  }

  namespace S3rver {
    interface Context {
      readonly method: string;
      query: Readonly<Record<string, unknown>>;
      status: number;
    }
    type Middleware = (context: Context, next: () => Promise<void>) => Promise<void>;
  }

  export = S3rver;
}
