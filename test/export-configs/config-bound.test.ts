import t from 'tap';
import { maxConfigs } from '../../src/export-configs/repository.ts';
import { configBody, makeConfig, startExportApp } from '../helpers/export-configs.ts';
import { needsS3 } from '../helpers/s3.ts';

t.test(
  'allows at most 50 export configs in an environment, also under concurrent creation',
  needsS3,
  async t => {
    const app = await startExportApp(t);
    await app.putEnvironment('acme');
    const { id } = await makeConfig(app, 'acme');
    // Copies a real config until two places are left.
    await app.database.pool.query(
      `insert into export_configs
       select (jsonb_populate_record(config, jsonb_build_object('id', gen_random_uuid()))).*
       from export_configs config, generate_series(1, $1)`,
      [maxConfigs - 3],
    );
    const create = () =>
      app.call('/v1/environments/acme/export-configs', { method: 'POST', json: configBody() });
    // Not more at once: saves with a destination check have a concurrency limit as well.
    const answers = await Promise.all([create(), create()]);
    const more = await Promise.all([create(), create()]);
    t.same(
      answers.map(({ status }) => status),
      [201, 201],
    );
    for (const answer of more) {
      t.equal(answer.status, 409);
      t.match(answer.json, {
        code: 'conflict',
        detail: /at most 50 export configs.*Delete one first/,
      });
    }

    const path = `/v1/environments/acme/export-configs/${id}`;
    t.equal((await app.call(path, { method: 'DELETE' })).status, 204);
    const last = await Promise.all([create(), create()]);
    t.same(last.map(({ status }) => status).sort(), [201, 409]);
  },
);
