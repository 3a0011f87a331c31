/**
 * Uploads a stream as one object that appears complete or not at all. `Upload` of lib-storage cuts
 * the stream into parts and sends them. This module adds:
 * - A source that is cut off does not complete the object.
 * - An error of one part aborts the other parts at once.
 * - A started upload is aborted after an error.
 */
import { createHash } from 'node:crypto';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { type Attributes, withSpan } from '../../observability/tracing.ts';
import type { Destination } from '../destination.ts';
import { type Encryption, encryptionParams } from '../encryption.ts';
import { folderOf } from '../object-key.ts';
import { abortUpload } from './abort-upload.ts';
import { requireETag, requireUploadId } from './answer-values.ts';
import { causeOf } from './error-codes.ts';
import {
  describeStorageError,
  describeStorageErrorAs,
  StorageError,
  type StorageErrorDetails,
} from './errors.ts';

export interface UploadRequest {
  readonly destination: Destination;
  /** Complete key of the object, folder included. */
  readonly key: string;
  /**
   * Content. If it is wrong, the stream must emit an error before its end. After an end without
   * error the object is completed.
   */
  readonly body: Readable | AsyncIterable<Uint8Array>;
  readonly contentType: string;
  /** Default: null, the default of the bucket. */
  readonly encryption?: Encryption | null;
  readonly metadata: Readonly<Record<string, string>>;
  /** Estimated size. The size of the parts leaves room for twice as much. */
  readonly expectedSizeBytes: number;
  /** Aborts the upload. The last request is not aborted, because the object may already appear. */
  readonly signal: AbortSignal;
  /**
   * Called and awaited before the first part is sent. A later clean-up can therefore abort the
   * upload of a crashed process. `asked` is the number of requests to start. Each one except the
   * last may have started an upload with an unknown id.
   */
  readonly onMultipartStarted: (uploadId: string, asked: number) => Promise<void>;
  /**
   * Called when the upload was aborted and nothing is left. Not called if the storage refused the
   * abort.
   */
  readonly onMultipartAborted?: () => Promise<void>;
  /**
   * Called before the request that makes the object appear, after all parts.
   * @throws to prevent that request
   */
  readonly beforeLastRequest?: () => Promise<void>;
}

export interface UploadedObject {
  readonly bytes: number;
  /** SHA-256 of the bytes as sent, in lower-case hex. */
  readonly sha256: string;
}

const mebibyte = 1024 * 1024;
const minPartSizeBytes = 8 * mebibyte;
const maxParts = 10_000;
const maxPartsInFlight = 4;
/** Maximum total size of the parts in flight, unless a single part is larger. */
const maxBytesInFlight = 64 * mebibyte;
/**
 * Limits of requests that the signal does not abort, including retries. An aborted start would
 * leave an upload with an unknown id. An aborted completion would leave an object that no run
 * claims.
 */
const createLimitMs = 20_000;
const lastLimitMs = 300_000;

/**
 * Returns the part size. All parts have one size, as some providers require. It is large enough
 * that 10,000 parts hold twice the expected size.
 */
export function partSizeBytes(expectedSizeBytes: number): number {
  const needed = Math.ceil((2 * expectedSizeBytes) / maxParts / mebibyte) * mebibyte;
  return Math.max(minPartSizeBytes, needed);
}

/**
 * Sends up to one part's length as a single request. Sends more as a multipart upload with a few
 * concurrent parts. After an error it tries to abort the upload. A caller that was given an upload
 * id must retry `abortUpload` until it succeeds.
 *
 * @throws StorageError if the storage fails; the reason of the signal if it aborts; errors of the
 * source and of `onMultipartStarted`
 */
export async function uploadObject(
  client: S3Client,
  request: UploadRequest,
): Promise<UploadedObject> {
  return await withSpan('upload', {}, async span => {
    const uploaded = await upload(client, request);
    span.add({ 'whx.bytes': uploaded.bytes });
    return uploaded;
  });
}

async function upload(client: S3Client, request: UploadRequest): Promise<UploadedObject> {
  const { destination, key, body, contentType, metadata, expectedSizeBytes, signal } = request;
  // The first error aborts all other work and is thrown.
  const failure = new AbortController();
  const stopped = AbortSignal.any([signal, failure.signal]);
  const { stream, result } = digestStream();
  const sourceEnd = takeWhole(body, stream, stopped);
  sourceEnd.catch((error: unknown) => failure.abort(error));
  onCutOff(body, () => failure.abort(new SourceCutOffError()));

  let uploadId: string | null = null;
  const send = sender(client, destination, {
    stopped,
    failure,
    sourceEnd,
    beforeLastRequest: request.beforeLastRequest,
    onStarted: async (id, asked) => {
      uploadId = id;
      await request.onMultipartStarted(id, asked);
    },
  });
  const partSize = partSizeBytes(expectedSizeBytes);
  const multipart = new Upload({
    client: Object.create(client, { send: { value: send } }) as S3Client,
    params: {
      Bucket: destination.bucket,
      Key: key,
      Body: stream,
      ContentType: contentType,
      Metadata: { ...metadata },
      ...encryptionParams(request.encryption ?? null),
    },
    partSize,
    queueSize: Math.min(Math.max(Math.floor(maxBytesInFlight / partSize), 1), maxPartsInFlight),
    // Aborted below instead, so that a failed abort does not replace the first error.
    leavePartsOnError: true,
  });
  try {
    await multipart.done();
    return result();
  } catch (error) {
    failure.abort(error);
    if (uploadId !== null) {
      await abortUpload(client, destination, key, uploadId)
        .then(request.onMultipartAborted)
        .catch(() => {});
    }
    signal.throwIfAborted();
    throw failure.signal.reason;
  }
}

interface SenderOptions {
  readonly stopped: AbortSignal;
  readonly failure: AbortController;
  /** Resolves when the source has ended without error and was read completely. */
  readonly sourceEnd: Promise<void>;
  readonly onStarted: UploadRequest['onMultipartStarted'];
  readonly beforeLastRequest: UploadRequest['beforeLastRequest'] | undefined;
}

type Command = Parameters<S3Client['send']>[0];
interface Answer {
  readonly UploadId?: string;
  readonly ETag?: string;
  readonly $metadata: { readonly attempts?: number };
}

/**
 * Replaces the client's `send` inside `Upload`, which supports neither signals nor these
 * conditions.
 */
function sender(
  client: S3Client,
  destination: Destination,
  { stopped, failure, sourceEnd, onStarted, beforeLastRequest }: SenderOptions,
): (command: Command) => Promise<Answer> {
  const ask = async (command: Command): Promise<Answer> => {
    stopped.throwIfAborted();
    const isCreate = command instanceof CreateMultipartUploadCommand;
    const isLast =
      command instanceof CompleteMultipartUploadCommand || command instanceof PutObjectCommand;
    if (isLast) {
      await sourceEnd;
      await beforeLastRequest?.();
    }
    try {
      const answer = (await client.send(command, {
        abortSignal: limitOf(isCreate, isLast) ?? stopped,
      })) as Answer;
      if (isCreate) requireUploadId(answer.UploadId);
      else requireETag(answer.ETag);
      return answer;
    } catch (error) {
      if (stopped.aborted) throw error;
      throw new StorageError(await detailsOf(client, destination, command, error), error);
    }
  };
  return async command => {
    try {
      const answer = await withSpan(nameOf(command), partOf(command), () => ask(command));
      if (answer.UploadId !== undefined && command instanceof CreateMultipartUploadCommand) {
        await onStarted(answer.UploadId, answer.$metadata.attempts ?? 1);
      }
      return answer;
    } catch (error) {
      failure.abort(error);
      throw error;
    }
  };
}

/**
 * Describes a failed request. RADOS Gateway answers InvalidAccessKeyId if it does not know the key
 * of the encryption. A list shows whether the access key is meant.
 */
async function detailsOf(
  client: S3Client,
  destination: Destination,
  { input }: Command,
  error: unknown,
): Promise<StorageErrorDetails> {
  const context = { step: 'upload', destination } as const;
  const isEncrypted = 'ServerSideEncryption' in input && input.ServerSideEncryption !== undefined;
  if (!isEncrypted || causeOf(error).kind !== 'access_key_not_recognised') {
    return describeStorageError(error, context);
  }
  const key = 'Key' in input ? (input.Key ?? '') : '';
  const list = { Bucket: destination.bucket, Prefix: folderOf(key), MaxKeys: 1 };
  const isKnown = await client
    .send(new ListObjectsV2Command(list), { abortSignal: AbortSignal.timeout(createLimitMs) })
    .then(
      () => true,
      reason => causeOf(reason).kind === 'denied',
    );
  return isKnown
    ? describeStorageErrorAs('encryption_denied', error, context)
    : describeStorageError(error, context);
}

function limitOf(isCreate: boolean, isLast: boolean): AbortSignal | null {
  if (isCreate) return AbortSignal.timeout(createLimitMs);
  return isLast ? AbortSignal.timeout(lastLimitMs) : null;
}

/** Returns the name of the request in S3, such as `UploadPart`. */
function nameOf(command: Command): string {
  return command.constructor.name.replace(/Command$/, '');
}

function partOf({ input }: Command): Attributes {
  return 'PartNumber' in input && input.PartNumber !== undefined
    ? { 'whx.upload.part': input.PartNumber }
    : {};
}

/** Error for a source that was destroyed before its end without an error. */
class SourceCutOffError extends Error {
  override readonly name = 'SourceCutOffError';

  constructor() {
    super('the source was cut off before its end');
  }
}

async function takeWhole(
  body: UploadRequest['body'],
  stream: Transform,
  stopped: AbortSignal,
): Promise<void> {
  await pipeline(body, stream, { signal: stopped });
  // `pipeline` treats a stream that was destroyed with an empty buffer as ended.
  if (body instanceof Readable && !body.readableEnded) throw new SourceCutOffError();
}

/**
 * Detects a source that was destroyed before its end. `pipeline` never settles if a stream is
 * destroyed after its last bytes arrived and before they were read.
 */
function onCutOff(body: UploadRequest['body'], cutOff: () => void): void {
  if (!(body instanceof Readable)) return;
  const check = () => body.readableEnded || cutOff();
  if (body.closed) check();
  else body.once('close', check);
}

function digestStream(): { stream: Transform; result: () => UploadedObject } {
  const hash = createHash('sha256');
  let bytes = 0;
  const stream = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      hash.update(chunk);
      done(null, chunk);
    },
  });
  return { stream, result: () => ({ bytes, sha256: hash.digest('hex') }) };
}
