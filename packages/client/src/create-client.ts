import {
  type DownloadExportOptions,
  downloadExport,
  type ExportDownload,
} from './download-export.ts';
import { createClient as createGeneratedClient } from './generated/client/index.ts';
import { Api } from './generated/sdk.gen.ts';
import type { IngestedSnapshot } from './generated/types.gen.ts';
import { iterate, type ListItem, type ListOperation } from './iterate.ts';
import { createTransport, toApiError } from './transport.ts';
import { type UploadSnapshotOptions, uploadSnapshot } from './upload-snapshot.ts';

export interface ClientOptions {
  /** Origin of the service, and the path before `/v1` if there is one. */
  readonly baseUrl: string;
  /** Operator token, API key or user token. A function is called for each request. */
  readonly token: string | (() => string | Promise<string>);
  /** Default: the global `fetch`. */
  readonly fetch?: typeof fetch;
}

export interface Client {
  /**
   * One method for each operation of `openapi.yaml`. Each returns the body or throws `ApiError`.
   */
  readonly api: Api;
  /** Yields the items of all pages: `iterate('listRuns', { path })`. */
  iterate<Name extends ListOperation>(
    name: Name,
    ...options: Parameters<Api[Name]>
  ): AsyncGenerator<ListItem<Name>, void, void>;
  /** Opens an export, resumes it after a broken connection and verifies it. */
  downloadExport(options: DownloadExportOptions): Promise<ExportDownload>;
  /** Replaces the snapshot of a day. */
  uploadSnapshot(options: UploadSnapshotOptions): Promise<IngestedSnapshot>;
}

/** Creates a client. It keeps no connection, so it need not be closed. */
export function createClient(options: ClientOptions): Client {
  const { baseUrl } = options;
  const token = async () =>
    typeof options.token === 'string' ? options.token : await options.token();
  const fetch: typeof globalThis.fetch = (input, init) =>
    (options.fetch ?? globalThis.fetch)(input, init);
  const generated = createGeneratedClient({
    baseUrl: baseUrl.replace(/\/$/, ''),
    auth: token,
    fetch,
    redirect: 'error',
    throwOnError: true,
  });
  generated.interceptors.error.use(toApiError);
  const api = new Api({ client: generated });
  const transport = createTransport({ baseUrl, token, fetch });
  return {
    api,
    iterate: (name, ...listOptions) => iterate(api, name, ...listOptions),
    downloadExport: downloadOptions => downloadExport(transport, downloadOptions),
    uploadSnapshot: uploadOptions => uploadSnapshot(transport, uploadOptions),
  };
}
