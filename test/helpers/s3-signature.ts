import { createHash, createHmac } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

type SignedRequest = Pick<IncomingMessage, 'method' | 'url' | 'headers'>;

/**
 * Computes the signature (version 4) of a request to S3 without the SDK. Takes the scope and the
 * names of the signed headers from the Authorization header.
 *
 * @returns lower-case hex
 */
export function s3Signature(request: SignedRequest, secretAccessKey: string): string {
  const { method, url = '', headers } = request;
  const { authorization = '' } = headers;
  const scope = /Credential=[^/]+\/([^,]+)/.exec(authorization)?.[1] ?? '';
  const names = /SignedHeaders=([^,]+)/.exec(authorization)?.[1] ?? '';
  const [path, query = ''] = url.split('?');
  const parameters = query.split('&').map(text => (/^$|=/.test(text) ? text : `${text}=`));
  const canonicalRequest = [
    method,
    path,
    parameters.sort().join('&'),
    ...names.split(';').map(name => `${name}:${headers[name]}`),
    '',
    names,
    headers['x-amz-content-sha256'],
  ].join('\n');
  const hash = createHash('sha256').update(canonicalRequest).digest('hex');
  const toSign = ['AWS4-HMAC-SHA256', headers['x-amz-date'], scope, hash].join('\n');
  const hmac = (key: string | Buffer, text: string) =>
    createHmac('sha256', key).update(text).digest();
  const key = scope.split('/').reduce(hmac, Buffer.from(`AWS4${secretAccessKey}`));
  return hmac(key, toSign).toString('hex');
}
