import { fillPath } from './fill-path.ts';
import type { IngestedSnapshot } from './generated/types.gen.ts';
import type { Transport } from './transport.ts';

export interface UploadSnapshotOptions {
  readonly environmentId: string;
  /** UTC day of the snapshot, `YYYY-MM-DD`. */
  readonly date: string;
  /**
   * CSV with a header line. Text, bytes and blobs are sent with their digest, so they must fit into
   * memory. A stream is sent without one, unless `sha256` is given.
   */
  readonly body: string | Uint8Array<ArrayBuffer> | Blob | AsyncIterable<Uint8Array>;
  /** Encoding that the body already has. */
  readonly contentEncoding?: 'gzip';
  /**
   * SHA-256 of the body as it is sent, after compression: the 32 bytes of the digest. Default:
   * computed, except for a stream.
   */
  readonly sha256?: Uint8Array;
  /** Number of rows without the header line. The service refuses a body with another number. */
  readonly rowCount?: number;
  readonly signal?: AbortSignal;
}

/**
 * Replaces the snapshot of a day. An error leaves the earlier snapshot unchanged, so the call may
 * be repeated.
 *
 * @throws {ApiError} `snapshot_invalid` names the invalid rows
 */
export async function uploadSnapshot(
  transport: Transport,
  options: UploadSnapshotOptions,
): Promise<IngestedSnapshot> {
  const { environmentId, date, contentEncoding, rowCount, signal } = options;
  const body =
    typeof options.body === 'string' ? new TextEncoder().encode(options.body) : options.body;
  const sha256 = options.sha256 ?? (await digestOf(body));
  const answer = await transport.send(
    fillPath('/v1/environments/{environmentId}/snapshots/{date}', { environmentId, date }),
    {
      method: 'PUT',
      query: { rowCount },
      headers: {
        'content-type': 'text/csv',
        ...(contentEncoding && { 'content-encoding': contentEncoding }),
        ...(sha256 && { 'content-digest': `sha-256=:${toBase64(sha256)}:` }),
      },
      body,
      signal,
    },
  );
  return (await answer.json()) as IngestedSnapshot;
}

async function digestOf(
  body: Uint8Array<ArrayBuffer> | Blob | AsyncIterable<Uint8Array>,
): Promise<Uint8Array | null> {
  if (body instanceof Uint8Array) return sha256Of(body);
  if (body instanceof Blob) return sha256Of(await body.arrayBuffer());
  return null;
}

async function sha256Of(bytes: ArrayBuffer | Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
}

function toBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}
