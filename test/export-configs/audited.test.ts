import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { configBody, credentialsOf, startExportApp } from '../helpers/export-configs.ts';
import { needsS3, s3Server } from '../helpers/s3.ts';

/** Audit log entries of export configs and runs. */

t.test(
  'writes one audit line without secrets for each config change and each manual run',
  needsS3,
  async t => {
    const app = await startExportApp(t);
    await app.putEnvironment('acme');
    const key = await app.makeKey('acme', ['exports:write']);
    await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
    let seen = 0;
    const fresh = async () => {
      const { rows } = await app.database.pool.query(
        `select id, actor_kind, actor_id, action, target_id, details from audit_log where id > $1 and action like 'export%' order by id`,
        [seen],
      );
      seen = Number(rows.at(-1)?.id ?? seen);
      return rows.map(({ id: _id, ...line }) => line);
    };
    const configs = '/v1/environments/acme/export-configs';
    const send = (path: string, method: string, json?: unknown) =>
      app.call(`${configs}${path}`, {
        method,
        token: key.token,
        ...(json === undefined ? {} : { json }),
      });
    const by = { actor_kind: 'api-key', actor_id: key.id };

    const wrong = {
      ...configBody('full'),
      secretAccessKey: credentialsOf('readOnly').secretAccessKey,
    };
    t.equal((await send('', 'POST', wrong)).status, 422);
    t.strictSame(await fresh(), [], 'a rejected request is not audited');

    const body = configBody('full');
    const { provider, bucket, region, key: folder, endpoint, accessKeyId } = body;
    const place = { provider, bucket, region, key: folder, endpoint };
    const destination = { ...place, encryption: null, accessKeyId };
    const { id } = (await send('', 'POST', body)).json;
    t.strictSame(await fresh(), [
      {
        ...by,
        action: 'export_config.created',
        target_id: id,
        details: {
          enabled: true,
          schedule: 'daily',
          destination,
        },
      },
    ]);
    const patch = async (json: object) => {
      t.equal((await send(`/${id}`, 'PATCH', json)).status, 200);
      return (await fresh()).map(({ action, target_id, details }) => {
        t.equal(target_id, id);
        return { action, ...details };
      });
    };
    t.strictSame(await patch({}), []);
    t.strictSame(
      await patch({ name: 'Nightly', schedule: 'daily' }),
      [],
      'unchanged values are not audited',
    );
    t.strictSame(
      await patch({ name: 'Weekly', schedule: 'weekly', manifest: true, key: 'elsewhere' }),
      [
        {
          action: 'export_config.updated',
          changed: ['schedule', 'name', 'manifest', 'key'],
          destination: { ...destination, key: 'elsewhere' },
        },
      ],
    );
    t.strictSame(await patch(credentialsOf('full')), [
      {
        action: 'export_config.updated',
        changed: ['secretAccessKey'],
        destination: { ...destination, key: 'elsewhere' },
      },
    ]);
    t.strictSame(await patch({ enabled: false }), [
      { action: 'export_config.turned_off', changed: ['enabled'] },
    ]);
    t.equal((await send(`/${id}`, 'PATCH', { schedule: 'hourly' })).status, 400);
    t.strictSame(await fresh(), []);

    t.equal((await send(`/${id}/runs`, 'POST', { snapshotDate: '2026-01-01' })).status, 404);
    t.strictSame(await fresh(), []);
    const run = (await send(`/${id}/runs`, 'POST')).json;
    t.strictSame(await fresh(), [
      {
        ...by,
        action: 'export_run.started',
        target_id: run.id,
        details: { configId: id, snapshotDate: '2026-03-01' },
      },
    ]);
    t.equal((await send(`/${id}/runs`, 'POST')).status, 409);
    t.strictSame(await fresh(), []);

    t.equal((await send(`/${id}`, 'DELETE')).status, 204);
    t.strictSame(await fresh(), [
      { ...by, action: 'export_config.deleted', target_id: id, details: {} },
    ]);
    t.equal((await send(`/${id}`, 'DELETE')).status, 404);
    t.strictSame(await fresh(), []);

    const whole = JSON.stringify((await app.call('/v1/audit-log?limit=100')).json);
    for (const user of Object.values(s3Server().users)) {
      t.notOk(whole.includes(user.secretAccessKey));
    }
    t.notOk(whole.includes(key.token.split('_')[2] ?? ''));
  },
);
