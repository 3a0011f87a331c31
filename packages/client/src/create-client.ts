import {
  type DownloadExportOptions,
  downloadExport,
  type ExportDownload,
} from './download-export.ts';
import { fillPath } from './fill-path.ts';
import { createClient as createGeneratedClient } from './generated/client/index.ts';
import { Api } from './generated/sdk.gen.ts';
import type { IngestedSnapshot } from './generated/types.gen.ts';
import { iterate, type ListItem, type ListOperation } from './iterate.ts';
import { createTransport, toApiError } from './transport.ts';
import { type UploadSnapshotOptions, uploadSnapshot } from './upload-snapshot.ts';

export interface ClientOptions {
  /** Absolute URL of the service without `/v1`. */
  readonly baseUrl: string;
  /** Operator token, API key or user token. A function is called for each request. */
  readonly token: string | (() => string | Promise<string>);
  /** Default: the global `fetch`. */
  readonly fetch?: typeof fetch;
}

export interface Client {
  /** One method for each JSON operation of the API. Each returns the body or throws `ApiError`. */
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
    requestValidator,
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

/** Checks the path parameters of a generated function before it sends a request. */
async function requestValidator(options: unknown): Promise<void> {
  const { url, path = {} } = options as { url: string; path?: Record<string, unknown> };
  fillPath(url, path);
}
