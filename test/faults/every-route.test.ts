import fc from 'fast-check';
import t from 'tap';
import { parseEndpointAllowlist } from '../../src/outbound/endpoint-allowlist.ts';
import { createDocument, fakeEndpoint, listDocument } from '../destinations/s3/fake-endpoint.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { isFullScale, scaled, seed } from '../helpers/scale.ts';
import { registerSecret, testAdminToken } from '../helpers/secrets.ts';
import { fittingTexts } from './arbitrary-bodies.ts';
import { type Attempt, arbitraryAttempt, hasOddPath, writeRequest } from './arbitrary-requests.ts';
import { readDocument } from './documented-answers.ts';
import { exchange, type RawAnswer } from './raw-exchange.ts';

t.setTimeout(900_000);

/** A storage that accepts everything, so that configs can be created. */
const storage = await fakeEndpoint((request, response) => {
  if (request.method === 'DELETE') response.writeHead(204).end();
  else
    response
      .setHeader('content-type', 'application/xml')
      .end(request.method === 'POST' ? createDocument('u1') : listDocument);
});
t.teardown(storage.close);
const endpoint = storage.destination.endpoint ?? '';
fittingTexts['snapshotDate'] = [
  ...Array(20).fill('2026-03-01'),
  ...(fittingTexts['snapshotDate'] ?? []),
];
fittingTexts['endpoint'] = [...Array(20).fill(endpoint), ...(fittingTexts['endpoint'] ?? [])];
for (const field of ['bucket', 'region', 'key', 'accessKeyId', 'secretAccessKey']) {
  const [first = '', ...others] = fittingTexts[field] ?? [];
  fittingTexts[field] = [...Array(40).fill(first), ...others];
}
registerSecret('secret-of-the-fuzzer-1234');

const app = await startTestApp(t, {
  adjust: dependencies => ({
    ...dependencies,
    clientEnvironment: {
      allowlist: parseEndpointAllowlist([new URL(endpoint).host]),
      resolve: (name, _options, done) =>
        name === 'inside.example'
          ? done(null, [{ address: '127.0.0.1', family: 4 }])
          : done(Object.assign(new Error(name), { code: 'ENOTFOUND' }), []),
    },
  }),
});
const documented = readDocument(app.app);

const scopes = ['exports:read', 'exports:write', 'snapshots:write'] as const;
for (const [id, plan] of [
  ['acme', 'enterprise'],
  ['on-pro', 'pro'],
  ['on-free', 'free'],
  ['stranger', 'enterprise'],
] as const) {
  await app.putEnvironment(id, plan);
  await app.ingest(id, '2026-03-01', ingestBody([adoptionRow()]));
}
const failureWebhook = 'https://hooks.example.com/exports';
const hooked = await app.call('/v1/environments/acme', {
  method: 'PUT',
  json: { name: 'acme', plan: 'enterprise', failureWebhook },
});
if (hooked.status !== 200) throw new Error(hooked.text);
const tokens: Record<string, string | null> = {
  operator: testAdminToken,
  nobody: null,
  'a liar': 'whx_x',
  'an old token': `whx_${'0'.repeat(16)}_${'0'.repeat(64)}`,
};
for (const scope of scopes) tokens[scope] = (await app.makeKey('acme', [scope])).token;
tokens['all scopes'] = (await app.makeKey('acme', scopes)).token;
tokens['on-pro'] = (await app.makeKey('on-pro', scopes)).token;
tokens['on-free'] = (await app.makeKey('on-free', scopes)).token;
tokens['stranger'] = (await app.makeKey('stranger', scopes)).token;

const configBody = {
  name: 'x',
  schedule: 'daily',
  provider: 'custom',
  endpoint,
  bucket: 'acme',
  region: 'auto',
  accessKeyId: 'AKIAFUZZ',
  secretAccessKey: 'secret-of-the-fuzzer-1234',
};
async function made(path: string, json: object): Promise<string> {
  const answer = await app.call(path, { method: 'POST', json });
  if (answer.status >= 300) throw new Error(answer.text);
  return answer.json.id ?? answer.json.url;
}
const foreignConfig = await made('/v1/environments/stranger/export-configs', configBody);
const foreignRun = await made(`/v1/environments/stranger/export-configs/${foreignConfig}/runs`, {});
const keptConfig = await made('/v1/environments/acme/export-configs', configBody);
const keptRun = await made(`/v1/environments/acme/export-configs/${keptConfig}/runs`, {});
const keptBackfill = await made(`/v1/environments/acme/export-configs/${keptConfig}/backfills`, {
  from: '2026-03-01',
  to: '2026-03-02',
});
const link = await made('/v1/environments/acme/download-links', {
  aggregation: 'today',
  expiresInSeconds: 3600,
});
const linkToken = registerSecret(link.slice(link.lastIndexOf('/') + 1));

const world = {
  environmentId: [...Array(12).fill('acme'), 'on-pro', 'on-free', 'stranger', 'no-such'],
  spareEnvironmentId: ['spare-1', 'spare-2', 'spare-3', 'no-such-1'],
  configId: [foreignConfig, 'no-such', ...Array(12).fill(keptConfig)],
  spareConfigId: [foreignConfig, 'no-such'],
  runId: [foreignRun, 'no-such', ...Array(6).fill(keptRun)],
  backfillId: ['no-such', ...Array(3).fill(keptBackfill)],
  keyId: ['0000000000000000'],
  date: [
    ...Array(12).fill('2026-03-01'),
    ...Array(6).fill('2026-03-02'),
    '2026-03-01',
    '2026-03-02',
    '2026-02-28',
    '2026-02-30',
    '2026-03-03',
    '1999-12-31',
    '9999-12-31',
    '0000-01-01',
    '10000-01-01',
  ],
  aggregation: ['today', '30-days-daily', '3-months-weekly', '6-months-weekly', 'yesterday'],
  token: [linkToken, `${linkToken.slice(0, -2)}xx`, 'none'],
};

/** Adds the ids of created objects to the world, so that later requests use them. */
function remember(attempt: Attempt, answer: RawAnswer): void {
  if (answer.status !== 201 && answer.status !== 202) return;
  const { id } = JSON.parse(answer.body.toString());
  const kind = attempt.operation.path.split('/').at(-1);
  if (kind === 'export-configs') world.configId.push(id);
  if (kind === 'export-configs') world.spareConfigId.push(id);
  if (kind === 'runs') world.runId.push(id);
  if (kind === 'backfills') world.backfillId.push(id);
  if (kind === 'api-keys') world.keyId.push(id);
}

/** Node limits headers to 16 KiB. Other headers of the request need some of it. */
const isLongHead = (request: Buffer) => request.indexOf('\r\n\r\n') > 15_000;

t.test('answers arbitrary requests to every route as documented', async t => {
  const seen = new Map<string, number>();
  const faults = new Map<string, string>();
  const count = scaled(10_000);
  // Changing operations are included three times: fewer of their requests are valid.
  const changing = documented.operations.filter(({ method }) => method !== 'GET');
  const operations = [...documented.operations, ...changing, ...changing];
  const attempts = arbitraryAttempt(operations, Object.keys(tokens));
  const property = fc.asyncProperty(attempts, async attempt => {
    const request = writeRequest(attempt, world, tokens);
    const route = `${attempt.method} ${attempt.operation.path}`;
    const tell = (fault: string, more = '') =>
      faults.set(`${route}: ${fault}`, `as ${attempt.caller}: ${shown(request)}${more}`);
    try {
      const { answers } = await exchange(app.port, [request], { methods: [attempt.method] });
      const [answer] = answers;
      if (answer === undefined || answers.length !== 1)
        throw new Error(`${answers.length} answers`);
      const { status } = answer;
      seen.set(`${status} ${route}`, (seen.get(`${status} ${route}`) ?? 0) + 1);
      const text = answer.body.toString();
      if (status === 431 && isLongHead(request)) return;
      if (hasOddPath(attempt) && status === 404 && text.includes('There is nothing at this path'))
        return;
      // An odd part may make the path of another operation.
      if (hasOddPath(attempt) && status === 405 && answer.headers['allow'] !== undefined) return;
      const fault = documented.faultOf(attempt.operation, attempt.method, answer);
      if (fault !== null) tell(`${status}: ${fault}`, ` → ${text.slice(0, 1_000)}`);
      else remember(attempt, answer);
    } catch (error) {
      tell(String(error));
    }
  });
  // Collects all findings and reports them at the end, instead of shrinking the first one.
  await fc.check(property, { numRuns: count, seed });
  t.strictSame([...faults].slice(0, 20), [], `${count} requests with seed ${seed}`);
  if (isFullScale) {
    const succeeded = new Set(
      [...seen.keys()].filter(key => key.startsWith('2')).map(key => key.slice(4)),
    );
    const all = documented.operations.map(({ method, path }) => `${method} ${path}`);
    t.strictSame(
      // A retry or cancellation needs unfinished work, which few of these requests find.
      all.filter(route => !succeeded.has(route) && !/\/(retry|cancel)$/.test(route)),
      [],
      'every route answered with success at least once',
    );
  }
  for (const line of [...seen].map(([key, times]) => `${key}: ${times}`).sort()) t.comment(line);
  const routes = documented.operations.length;
  console.error(
    `arbitrary requests: ${count} to ${routes} routes (seed ${seed}), ${faults.size} kinds of finding`,
  );

  t.equal(Object.hasOwn(Object.prototype, 'polluted'), false);
  t.strictSame(
    app.log.filter(line => Number(line['level']) >= 50),
    [],
    'no log line at error level',
  );
  t.equal((await app.call('/health/ready')).status, 200);
});

/** Returns the text of the request without secrets. */
function shown(request: Buffer): string {
  const text = request.toString('latin1').replace(/(?<=^authorization: Bearer ).*/m, '…');
  return JSON.stringify(text.replaceAll(linkToken, '…').slice(0, 1_500));
}
