import dgram from 'node:dgram';
import { once } from 'node:events';
import fs from 'node:fs/promises';
import type http from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { checkPlacesOptions } from '../../src/dependencies.ts';
import { abortOrphanedUploads } from '../../src/destinations/s3/abort-upload.ts';
import { checkDestination } from '../../src/destinations/s3/check.ts';
import { createS3Client, runTimeouts } from '../../src/destinations/s3/client.ts';
import { parseEndpointAllowlist } from '../../src/outbound/endpoint-allowlist.ts';
import { createTenantLookup } from '../../src/outbound/tenant-lookup.ts';
import { createCheckPlaces } from '../../src/shared/check-places.ts';
import { createDocument, fakeEndpoint, listDocument } from '../destinations/s3/fake-endpoint.ts';
import { startTestApp } from '../helpers/app.ts';
import { scaled } from '../helpers/scale.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.setTimeout(300_000);

const credentials = {
  accessKeyId: 'AKIASLOW',
  secretAccessKey: registerSecret('slow-secret-1234'),
};
const body = (endpoint: string) => ({
  name: 'x',
  schedule: 'daily',
  provider: 'custom',
  endpoint,
  bucket: 'acme',
  region: 'auto',
  ...credentials,
});
const environment = { allowlist: parseEndpointAllowlist(['127.0.0.1']) };
const allow = { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' };

t.test('admits two checks of an environment and eight of a process', async t => {
  const waiting: (() => void)[] = [];
  let isHeld = false;
  const answer = (request: http.IncomingMessage, response: http.ServerResponse) => {
    const send = () =>
      request.method === 'DELETE'
        ? response.writeHead(204).end()
        : response.end(request.method === 'POST' ? createDocument('u1') : listDocument);
    if (isHeld) waiting.push(send);
    else send();
  };
  const endpoint = await fakeEndpoint(answer);
  t.teardown(endpoint.close);
  const app = await startTestApp(t, { env: allow });
  const environments = ['a', 'b', 'c', 'd', 'e'];
  for (const id of environments) await app.putEnvironment(id);
  const path = (id: string) => `/v1/environments/${id}/export-configs`;
  const json = body(endpoint.destination.endpoint ?? '');
  const stored = await app.call(path('a'), { method: 'POST', json });
  t.equal(stored.status, 201, stored.text);

  isHeld = true;
  const validate = (id: string) => app.call(`${path(id)}/validate`, { method: 'POST', json });
  const own = `${path('a')}/${stored.json.id}`;
  const held = [validate('a'), validate('a')];
  await waitFor('4 held requests', () => waiting.length, { isWanted: count => count === 4 });
  const refusals = {
    validate: await validate('a'),
    'validate a stored config': await app.call(`${own}/validate`, { method: 'POST' }),
    create: await app.call(path('a'), { method: 'POST', json: { ...json, key: 'other' } }),
    update: await app.call(own, { method: 'PATCH', json: { region: 'other' } }),
  };
  for (const [name, { status, headers, json }] of Object.entries(refusals)) {
    t.equal(status, 429, name);
    t.equal(json.code, 'rate_limited', name);
    t.ok(Number(headers['retry-after']) > 0, name);
  }
  t.equal(waiting.length, 4, 'refused checks send no request');
  t.equal(
    (await app.call(own, { method: 'PATCH', json: { name: 'y' } })).status,
    200,
    'no check is needed',
  );
  for (const id of ['b', 'c', 'd']) held.push(validate(id), validate(id));
  await waitFor('16 held requests', () => waiting.length, { isWanted: count => count === 16 });
  t.equal((await validate('e')).status, 429, 'the limit of the process is reached');

  isHeld = false;
  for (const send of waiting) send();
  for (const { status, json } of await Promise.all(held))
    t.match({ status, json }, { status: 200 });
  await waitFor('the end of all checks', () => app.dependencies.checkPlaces.active, {
    isWanted: active => active === 0,
  });
  t.match((await validate('e')).json, { valid: true });
});

t.test('checks buckets of other environments while four use slow endpoints', async t => {
  const waiting: (() => void)[] = [];
  const slow = await fakeEndpoint((_request, response) => waiting.push(() => response.destroy()));
  t.teardown(slow.close);
  const quick = await fakeEndpoint((request, response) => {
    if (request.method === 'DELETE') response.writeHead(204).end();
    else response.end(request.method === 'POST' ? createDocument('u1') : listDocument);
  });
  t.teardown(quick.close);
  let nowMs = 0;
  const app = await startTestApp(t, {
    env: allow,
    adjust: dependencies => ({
      ...dependencies,
      // A busy machine needs some time between two steps of this test.
      checkPlaces: createCheckPlaces({ ...checkPlacesOptions, waitMs: 4_000, now: () => nowMs }),
    }),
  });
  const slowOnes = ['a', 'b', 'c', 'd'];
  for (const id of [...slowOnes, 'e']) await app.putEnvironment(id);
  const validate = (id: string, { destination } = slow) =>
    app.call(`/v1/environments/${id}/export-configs/validate`, {
      method: 'POST',
      json: body(destination.endpoint ?? ''),
    });
  const { checkPlaces } = app.dependencies;
  const untilActive = (wanted: number) =>
    waitFor(`${wanted} active checks`, () => checkPlaces.active, {
      isWanted: active => active === wanted,
    });
  const validateTwiceEach = () => slowOnes.flatMap(id => [validate(id), validate(id)]);

  const first = validateTwiceEach();
  await untilActive(8);
  t.equal((await validate('e', quick)).status, 429, 'all places are taken for the first time');
  const patient = validate('e', quick);
  // Slow endpoints end after 12 s.
  nowMs += 12_000;
  await waitFor('16 held requests', () => waiting.length, { isWanted: count => count === 16 });
  for (const end of waiting.splice(0)) end();
  t.match((await patient).json, { valid: true }, 'waits for a place');
  await Promise.all(first);
  await untilActive(0);

  const second = validateTwiceEach();
  await untilActive(2);
  t.match((await validate('e', quick)).json, { valid: true });
  let answered = 0;
  for (const call of second) void call.then(() => (answered += 1));
  await waitFor('6 refusals', () => answered === 6);
  await waitFor('4 held requests', () => waiting.length, { isWanted: count => count === 4 });
  for (const end of waiting.splice(0)) end();
  const statuses = (await Promise.all(second)).map(({ status }) => status);
  t.strictSame(statuses.toSorted(), [200, 200, 429, 429, 429, 429, 429, 429]);
});

t.test('answers other requests in time while name servers are slow', async t => {
  const server = dgram.createSocket('udp4');
  let questions = 0;
  server.on('message', () => {
    questions += 1;
  });
  server.bind(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const app = await startTestApp(t, {
    adjust: dependencies => ({
      ...dependencies,
      // The default limit would refuse most of the checks before they resolve a name.
      checkPlaces: createCheckPlaces({
        ...checkPlacesOptions,
        total: 100,
        perEnvironment: 100,
        now: () => 0,
      }),
      clientEnvironment: {
        allowlist: parseEndpointAllowlist([]),
        resolve: createTenantLookup({ servers: [`127.0.0.1:${port}`] }),
      },
    }),
  });
  await app.putEnvironment('acme');
  const count = scaled(40, 12);
  let ended = 0;
  const checks = Array.from({ length: count }, async (_, index) => {
    const answer = await app.call('/v1/environments/acme/export-configs/validate', {
      method: 'POST',
      json: body(`https://slow-${index}.example`),
    });
    ended += 1;
    return answer;
  });
  await waitFor('a DNS query of each check', () => questions, {
    isWanted: asked => asked >= count,
  });
  const ready = await app.call('/health/ready');
  const exported = await app.download('acme', 'today');
  await fs.readFile(import.meta.filename);
  t.strictSame([ready.status, exported.status], [200, 200]);
  t.equal(ended, 0, 'all checks were still waiting');
  for (const { json } of await Promise.all(checks)) {
    t.match(json, { valid: false, checks: [{ error: { code: 'endpoint_unreachable' } }] });
  }
});

t.test('aborts at most 20 uploads per sweep and ends when the sweep is aborted', async t => {
  const key = 'exports/file.csv';
  const uploads = Array.from(
    { length: 30 },
    (_, index) => `<Upload><Key>${key}</Key><UploadId>u${index}</UploadId></Upload>`,
  );
  // This id must reach neither PostgreSQL nor a later request.
  const bad = `<Upload><Key>${key}</Key><UploadId>a&#0;b</UploadId></Upload>`;
  const controller = new AbortController();
  let aborts = 0;
  let abortAt = Number.POSITIVE_INFINITY;
  const endpoint = await fakeEndpoint((request, response) => {
    if (request.method === 'GET') {
      response.end(
        `<ListMultipartUploadsResult>${bad}${uploads.join('')}</ListMultipartUploadsResult>`,
      );
      return;
    }
    aborts += 1;
    // The endpoint does not answer the request that triggers the abort.
    if (aborts === abortAt) controller.abort(new Error('cancelled'));
    else response.writeHead(204).end();
  });
  t.teardown(endpoint.close);
  const { destination } = endpoint;
  const client = createS3Client(destination, credentials, environment, runTimeouts);
  t.teardown(() => client.destroy());
  const signal = new AbortController().signal;
  t.equal(await abortOrphanedUploads(client, destination, key, ['u0'], signal), 20);
  t.equal(aborts, 20);
  t.match(endpoint.requests[0], /max-uploads=30/);
  aborts = 0;
  abortAt = 3;
  await t.rejects(abortOrphanedUploads(client, destination, key, [], controller.signal), {
    message: 'cancelled',
  });
  t.equal(aborts, 3);
});

t.test('rejects an answer that changes the protocol or has an invalid upload id', async t => {
  const answers: Record<string, (response: http.ServerResponse) => void> = {
    'a protocol change': response =>
      response.socket?.end('HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n'),
    NUL: response => response.end(createDocument('a&#0;b')),
    'a lone surrogate': response => response.end(createDocument('a&#xD800;b')),
    'a line break': response => response.end(createDocument('a&#10;b')),
    'a long id': response => response.end(createDocument('a'.repeat(2_000))),
  };
  for (const [name, answer] of Object.entries(answers)) {
    const endpoint = await fakeEndpoint((_, response) => answer(response));
    const result = await checkDestination(
      { destination: endpoint.destination, access: credentials, objectKey: 'k', limitMs: 10_000 },
      environment,
    );
    t.equal(result.checks[1]?.error?.code, 'not_s3', name);
    await endpoint.close();
  }
});
