export { type Client, type ClientOptions, createClient } from './create-client.ts';
export type { DownloadExportOptions, DownloadProgress, ExportDownload } from './download-export.ts';
export { ApiError, type ApiProblem } from './errors.ts';
export type * from './generated/types.gen.ts';
export type { ListItem, ListOperation } from './iterate.ts';
export { busyCodes, type RetryOptions, retryWhenBusy } from './retry-when-busy.ts';
export type { UploadSnapshotOptions } from './upload-snapshot.ts';
export {
  type VerifyWebhookOptions,
  verifyWebhook,
  type WebhookEvent,
  WebhookVerificationError,
} from './verify-webhook.ts';
