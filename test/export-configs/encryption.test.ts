import { HeadObjectCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { contentsOf, needsS3, s3Client, s3Destination, s3Server } from '../helpers/s3.ts';
import { startGateway } from '../helpers/s3-gateway.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';

const environmentId = 'acme';
const path = `/v1/environments/${environmentId}/export-configs`;

/** Starts a gateway whose key service has the key `testkey-1`, for uploads with `aws:kms`. */
async function startKmsGateway(t: { teardown(handler: () => Promise<void>): void }) {
  const gateway = await startGateway([
    '--rgw-crypt-s3-kms-backend=testing',
    `--rgw-crypt-s3-kms-encryption-keys=testkey-1=${Buffer.alloc(32, 7).toString('base64')}`,
    '--rgw-crypt-require-ssl=false',
  ]);
  t.teardown(gateway.stop);
  return gateway;
}

t.test('encrypts exported objects as the export config says', needsS3, async t => {
  const gateway = await startKmsGateway(t);
  const app = await startExportApp(t, { now: '2026-03-02T10:00:00.000Z' });
  await app.putEnvironment(environmentId);

  await t.test(
    'sends the configured encryption with the check, the object and the manifest',
    async t => {
      const proxy = await startS3Proxy(gateway.endpoint);
      t.teardown(proxy.close);
      const sent: (string | undefined)[][] = [];
      proxy.decide(({ method, url, headers }) => {
        const starts = method === 'PUT' || (method === 'POST' && url?.includes('?uploads'));
        if (starts) {
          sent.push(
            ['', '-aws-kms-key-id'].map(end =>
              headers[`x-amz-server-side-encryption${end}`]?.toString(),
            ),
          );
        }
        return 'pass';
      });
      await app.ingest(environmentId, '2026-03-02', ingestBody([adoptionRow({})]));
      const { id, key, encryption } = await makeConfig(
        app,
        environmentId,
        configBody('full', {
          endpoint: proxy.endpoint,
          manifest: true,
          encryption: { type: 'aws:kms', kmsKeyId: ' testkey-1 ' },
        }),
      );
      t.strictSame(encryption, { type: 'aws:kms', kmsKeyId: 'testkey-1' });
      startExportWorker(t, app);
      const { json } = await app.call(`${path}/${id}/runs`, { method: 'POST' });
      const run = await runReader(app, environmentId).finished(json.id);
      t.match(run, { state: 'successful' });
      t.strictSame(sent, Array(3).fill(['aws:kms', 'testkey-1']));
      const destination = s3Destination({ key, endpoint: gateway.endpoint });
      const client = s3Client('full', destination);
      t.teardown(() => client.destroy());
      const { objects } = await contentsOf(destination);
      t.equal(objects.length, 2);
      for (const Key of objects) {
        const head = await client.send(new HeadObjectCommand({ Bucket: s3Server().bucket, Key }));
        t.match(head, { ServerSideEncryption: 'aws:kms', SSEKMSKeyId: 'testkey-1' });
      }

      // A key that is deleted after the check.
      await app.database.pool.query("update export_configs set kms_key_id = 'deleted-key'");
      const { json: later } = await app.call(`${path}/${id}/runs`, { method: 'POST' });
      t.match(await runReader(app, environmentId).finished(later.id), {
        state: 'failed',
        attempts: 1,
        error: { code: 'encryption_denied' },
      });
      await app.database.pool.query("update export_configs set kms_key_id = 'testkey-1'");

      const patch = (body: object) => app.call(`${path}/${id}`, { method: 'PATCH', json: body });
      const refused = await patch({ encryption: { type: 'aws:kms', kmsKeyId: 'unknown-key' } });
      t.equal(refused.status, 422);
      t.equal(refused.json.storageError.code, 'encryption_denied', refused.text);
      t.match(refused.json.storageError.hint, /kms:GenerateDataKey/);
      t.strictSame((await contentsOf(destination)).unfinished, []);
      t.strictSame((await app.call(`${path}/${id}`)).json.encryption, encryption);
      t.equal(
        (await patch({ name: 'Renamed' })).json.encryption.type,
        'aws:kms',
        'an absent field is kept',
      );
      t.strictSame((await patch({ encryption: { type: 'AES256' } })).json.encryption, {
        type: 'AES256',
        kmsKeyId: null,
      });
      t.equal((await patch({ encryption: null })).json.encryption, null);
      const { rows } = await app.database.pool.query(
        "select details from audit_log where action = 'export_config.updated' order by id",
      );
      t.strictSame(
        rows.map(({ details }) => [details.changed, details.destination?.encryption]),
        [
          [['name'], undefined],
          [['encryption'], { type: 'AES256', kmsKeyId: null }],
          [['encryption'], null],
        ],
      );
    },
  );

  await t.test(
    'reports a refused encryption as encryption_denied and missing rights as write_denied',
    async t => {
      const proxy = await startS3Proxy(gateway.endpoint);
      proxy.decide(({ headers }) =>
        headers['x-amz-server-side-encryption'] === undefined ? 'pass' : 'invalid-request',
      );
      t.teardown(proxy.close);
      const validate = async (user: 'full' | 'readOnly', overrides: object) => {
        const body = configBody(user, { endpoint: proxy.endpoint, ...overrides });
        const { json } = await app.call(`${path}/validate`, { method: 'POST', json: body });
        return json.checks.map(
          (check: { error: { code: string } | null }) => check.error?.code ?? 'ok',
        );
      };
      const encryption = { type: 'AES256' };
      t.strictSame(await validate('full', { encryption }), ['ok', 'encryption_denied']);
      t.strictSame(await validate('full', { encryption: null }), ['ok', 'ok']);
      proxy.decide(() => 'pass');
      t.strictSame(await validate('full', { encryption }), ['ok', 'ok']);
      t.strictSame(await validate('readOnly', { encryption }), ['ok', 'write_denied']);
    },
  );

  await t.test('rejects a malformed encryption', async t => {
    const gcp = {
      name: 'Nightly',
      schedule: 'daily',
      provider: 'gcp',
      bucket: 'acme-exports',
      region: 'EU',
      accessKeyId: 'GOOG1',
      secretAccessKey: 'not-a-real-secret',
    };
    const table: [object, string][] = [
      [configBody('full', { encryption: { type: 'none' } }), '/encryption/type'],
      [configBody('full', { encryption: {} }), '/encryption/type'],
      [configBody('full', { encryption: 'AES256' }), '/encryption'],
      [configBody('full', { encryption: { type: 'AES256', key: 'k' } }), '/encryption/key'],
      [
        configBody('full', { encryption: { type: 'AES256', kmsKeyId: 'k' } }),
        '/encryption/kmsKeyId',
      ],
      [
        configBody('full', { encryption: { type: 'aws:kms', kmsKeyId: '' } }),
        '/encryption/kmsKeyId',
      ],
      [
        configBody('full', { encryption: { type: 'aws:kms', kmsKeyId: 'a\r\nb' } }),
        '/encryption/kmsKeyId',
      ],
      [{ ...gcp, encryption: { type: 'AES256' } }, '/encryption'],
    ];
    for (const [body, expected] of table) {
      const answer = await app.call(path, { method: 'POST', json: body });
      t.equal(answer.status, 400, answer.text);
      t.strictSame(
        answer.json.errors.map((fault: { path: string }) => fault.path),
        [expected],
      );
    }
  });
});
