import t from 'tap';
import { configBody, makeConfig, startExportApp } from '../helpers/export-configs.ts';
import { freshPrefix, needsS3, s3Server } from '../helpers/s3.ts';

const app = await startExportApp(t, { now: '2026-03-03T10:00:00.000Z' });
const pathOf = (environmentId: string) => `/v1/environments/${environmentId}/export-configs`;

t.test('rejects a config that writes the same object as another one', needsS3, async t => {
  const path = pathOf('acme');
  await app.putEnvironment('acme');
  await app.putEnvironment('other');
  const key = freshPrefix();
  const first = await makeConfig(app, 'acme', configBody('full', { key, name: 'First' }));
  const post = (overrides: object) =>
    app.call(path, { method: 'POST', json: configBody('full', { key, ...overrides }) });

  for (const [what, overrides] of [
    ['the same body', {}],
    ['slashes around the folder', { key: `/${key}/` }],
    ['another schedule', { schedule: 'weekly' }],
    ['a config that is off', { enabled: false }],
    ['another region label', { region: 'auto' }],
    ['another user', { accessKeyId: 'AKIAOTHER' }],
  ] as const) {
    const answer = await post(overrides);
    t.equal(answer.status, 409, what);
    t.equal(answer.json.code, 'conflict');
    t.match(answer.json.detail, `"First" (${first.id})`, what);
  }
  t.equal(
    (await post({ compression: 'gzip' })).status,
    201,
    'a different compression is a different object',
  );
  t.equal((await post({ key: `${key}/{date}` })).status, 201, 'another folder');
  const template = await post({ key: `${key}/{year}-{month}-{day}` });
  t.equal(template.status, 409, 'placeholders that give the same folder');
  const literal = await post({ key: `${key}/2026-03-02` });
  t.equal(literal.status, 409, 'a literal folder that equals the template on one day');
  const elsewhere = await app.call(pathOf('other'), {
    method: 'POST',
    json: configBody('full', { key }),
  });
  t.equal(elsewhere.status, 201, 'object names contain the environment id');

  await app.call(`${path}/${first.id}`, { method: 'DELETE' });
  t.equal((await post({})).status, 201, 'the conflicting config was deleted');
});

t.test('rejects a PATCH that leads to the object of another config', needsS3, async t => {
  const path = pathOf('patched');
  await app.putEnvironment('patched');
  const first = await makeConfig(app, 'patched');
  const second = await makeConfig(app, 'patched', configBody('full', { compression: 'gzip' }));
  const patch = (json: object) => app.call(`${path}/${second.id}`, { method: 'PATCH', json });
  t.equal(
    (await patch({ key: first.key })).status,
    200,
    'the compression differs, so the same folder is allowed',
  );
  const refused = await patch({ compression: 'none' });
  t.equal(refused.status, 409);
  t.match(refused.json.detail, first.id);
  t.equal((await app.call(`${path}/${second.id}`)).json.compression, 'gzip');
  t.equal((await patch({ compression: 'none', key: freshPrefix() })).status, 200);
  t.equal((await patch({ name: 'Renamed', enabled: false })).status, 200);

  // Configs that were saved by versions before this rule may share an object.
  await app.database.pool.query(
    `update export_configs set key = $1 where environment_id = 'patched'`,
    [first.key],
  );
  t.equal((await patch({ name: 'Still there' })).status, 200, 'other fields can be changed');
  t.equal((await patch({ enabled: true })).status, 200);
  t.equal(
    (await patch({ key: freshPrefix() })).status,
    200,
    'moving to another folder resolves the conflict',
  );
});

t.test(
  'stores only one of several conflicting configs that are saved concurrently',
  needsS3,
  async t => {
    const path = pathOf('concurrent');
    await app.putEnvironment('concurrent');
    const { bucket } = s3Server();
    const key = freshPrefix();
    const folders = ['{date}', '{year}-{month}-{day}', '2026-03-02', '{date}', '{year}-03-02'];
    const answers = await Promise.all(
      folders.map(folder =>
        app.call(path, { method: 'POST', json: configBody('full', { key: `${key}/${folder}` }) }),
      ),
    );
    t.equal(answers.filter(({ status }) => status === 201).length, 1);
    // The service checks two buckets of an environment at the same time.
    t.ok(answers.every(({ status }) => [201, 409, 429].includes(status)));

    const ids: string[] = [];
    for (let index = 0; index < 4; index += 1) ids.push((await makeConfig(app, 'concurrent')).id);
    const target = freshPrefix();
    const patched = await Promise.all(
      ids.map(id => app.call(`${path}/${id}`, { method: 'PATCH', json: { key: target } })),
    );
    t.equal(patched.filter(({ status }) => status === 200).length, 1);
    t.ok(patched.every(({ status }) => [200, 409, 429].includes(status)));
    const { rows } = await app.database.pool.query(
      'select count(*)::int as n from export_configs where bucket = $1 and key = $2',
      [bucket, target],
    );
    t.equal(rows[0].n, 1);
  },
);
