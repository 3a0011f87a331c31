/**
 * One object, streamed, that appears whole or not at all. `Upload` of lib-storage cuts the stream into parts and sends
 * them; what it leaves open is closed here: an end of the source that is no end completes nothing, a fault of one part
 * stops the rest at once, and what was begun is aborted.
 */
import { createHash } from 'node:crypto';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { type Facts, inStep } from '../../observability/tracing.ts';
import type { Destination } from '../destination.ts';
import { type Encryption, encryptionParams } from '../encryption.ts';
import { abortUpload } from './abort-upload.ts';
import { requireETag, requireUploadId } from './answer-values.ts';
import { describeStorageError, StorageError } from './errors.ts';

export interface UploadRequest {
  readonly destination: Destination;
  /** The object's whole key, folder included. */
  readonly key: string;
  /**
   * The bytes. Whatever makes the object wrong must be an error of this stream, at the latest in place of its end:
   * after an end without error the object is completed.
   */
  readonly body: Readable | AsyncIterable<Uint8Array>;
  readonly contentType: string;
  /** Default: null, which leaves it to the bucket. */
  readonly encryption?: Encryption | null;
  readonly metadata: Readonly<Record<string, string>>;
  /** An estimate will do: the size of the parts leaves room for twice as much. */
  readonly expectedSizeBytes: number;
  /** Stops the upload. Once the last request of all is under way the object may appear, so its answer is awaited. */
  readonly signal: AbortSignal;
  /**
   * Awaited before the first part is sent, so that a later sweep can abort what a dead process has begun. `asked` is how
   * often the storage was asked to begin: each time but the last may have begun an upload whose id nobody was told.
   */
  readonly onMultipartStarted: (uploadId: string, asked: number) => Promise<void>;
  /** What was begun is gone: there is nothing to sweep. Not called when the storage refused the abort. */
  readonly onMultipartAborted?: () => Promise<void>;
}

export interface UploadedObject {
  readonly bytes: number;
  /** Lower-case hex, of the bytes as sent. */
  readonly sha256: string;
}

const mebibyte = 1024 * 1024;
const minPartSizeBytes = 8 * mebibyte;
const maxParts = 10_000;
const maxPartsInFlight = 4;
/** Of all parts in flight, unless a single one is larger. */
const maxBytesInFlight = 64 * mebibyte;
/**
 * Limits of the requests that a stop of the run does not abort, retries included. An aborted start would leave an upload
 * whose id is unknown, an aborted end an object that no run claims.
 */
const createLimitMs = 20_000;
const lastLimitMs = 300_000;

/** Parts are of one size, which some providers demand, and large enough that 10,000 hold twice what is expected. */
export function partSizeBytes(expectedSizeBytes: number): number {
  const needed = Math.ceil((2 * expectedSizeBytes) / maxParts / mebibyte) * mebibyte;
  return Math.max(minPartSizeBytes, needed);
}

/**
 * Up to one part's length is sent as a single request, more as a multipart upload of a few parts at a time.
 *
 * @throws StorageError when the storage fails; the signal's reason when that aborted; whatever the source or
 * `onMultipartStarted` threw. What was begun was then aborted as far as the storage let us: a caller that was given an
 * upload id calls `abortUpload` with it later, again if need be, until that succeeds.
 */
export async function uploadObject(
  client: S3Client,
  request: UploadRequest,
): Promise<UploadedObject> {
  return await inStep('upload', {}, async step => {
    const uploaded = await upload(client, request);
    step.add({ 'whx.bytes': uploaded.bytes });
    return uploaded;
  });
}

async function upload(client: S3Client, request: UploadRequest): Promise<UploadedObject> {
  const { destination, key, body, contentType, metadata, expectedSizeBytes, signal } = request;
  // The first fault stops everything else, and is the one that is told.
  const fault = new AbortController();
  const stopped = AbortSignal.any([signal, fault.signal]);
  const { stream, result } = digestStream();
  const sourceEnd = takeWhole(body, stream, stopped);
  sourceEnd.catch((error: unknown) => fault.abort(error));
  onCutOff(body, () => fault.abort(new SourceCutOffError()));

  let uploadId: string | null = null;
  const send = sender(client, destination, {
    stopped,
    fault,
    sourceEnd,
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
    // Aborted below instead: a failed abort must not take the place of the fault that led to it.
    leavePartsOnError: true,
  });
  try {
    await multipart.done();
    return result();
  } catch (error) {
    fault.abort(error);
    if (uploadId !== null) {
      await abortUpload(client, destination, key, uploadId)
        .then(request.onMultipartAborted)
        .catch(() => {});
    }
    signal.throwIfAborted();
    throw fault.signal.reason;
  }
}

interface SenderOptions {
  readonly stopped: AbortSignal;
  readonly fault: AbortController;
  /** Resolves when the source has ended well and all of it was taken. */
  readonly sourceEnd: Promise<void>;
  readonly onStarted: UploadRequest['onMultipartStarted'];
}

type Command = Parameters<S3Client['send']>[0];
interface Answer {
  readonly UploadId?: string;
  readonly ETag?: string;
  readonly $metadata: { readonly attempts?: number };
}

/** Takes the place of the client's `send` inside `Upload`, which knows neither signals nor what came before. */
function sender(
  client: S3Client,
  destination: Destination,
  { stopped, fault, sourceEnd, onStarted }: SenderOptions,
): (command: Command) => Promise<Answer> {
  const ask = async (command: Command): Promise<Answer> => {
    stopped.throwIfAborted();
    const isCreate = command instanceof CreateMultipartUploadCommand;
    const isLast =
      command instanceof CompleteMultipartUploadCommand || command instanceof PutObjectCommand;
    if (isLast) await sourceEnd;
    try {
      const answer = (await client.send(command, {
        abortSignal: limitOf(isCreate, isLast) ?? stopped,
      })) as Answer;
      if (isCreate) requireUploadId(answer.UploadId);
      else requireETag(answer.ETag);
      return answer;
    } catch (error) {
      if (stopped.aborted) throw error;
      throw new StorageError(describeStorageError(error, { step: 'upload', destination }), error);
    }
  };
  return async command => {
    try {
      const answer = await inStep(nameOf(command), partOf(command), () => ask(command));
      if (answer.UploadId !== undefined && command instanceof CreateMultipartUploadCommand) {
        await onStarted(answer.UploadId, answer.$metadata.attempts ?? 1);
      }
      return answer;
    } catch (error) {
      fault.abort(error);
      throw error;
    }
  };
}

function limitOf(isCreate: boolean, isLast: boolean): AbortSignal | null {
  if (isCreate) return AbortSignal.timeout(createLimitMs);
  return isLast ? AbortSignal.timeout(lastLimitMs) : null;
}

/** As S3 calls the request: `UploadPart`. */
function nameOf(command: Command): string {
  return command.constructor.name.replace(/Command$/, '');
}

function partOf({ input }: Command): Facts {
  return 'PartNumber' in input && input.PartNumber !== undefined
    ? { 'whx.upload.part': input.PartNumber }
    : {};
}

/** The source was destroyed before its end, without an error of its own. */
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
  // `pipeline` takes a stream that was destroyed with nothing in its buffer for one that has ended.
  if (body instanceof Readable && !body.readableEnded) throw new SourceCutOffError();
}

/** `pipeline` waits for ever for a stream that is destroyed after its last bytes came but before they were read. */
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
