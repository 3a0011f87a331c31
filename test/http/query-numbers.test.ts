import t from 'tap';
import { startTestApp } from '../helpers/app.ts';

const app = await startTestApp(t);
await app.putEnvironment('acme');

const lists = [
  '/v1/environments',
  '/v1/audit-log',
  '/v1/environments/acme/api-keys',
  '/v1/environments/acme/snapshots',
  '/v1/environments/acme/export-configs',
];

t.test('accepts a limit in decimal digits', async t => {
  for (const path of lists) {
    for (const limit of ['1', '50', '100', '007']) {
      t.equal((await app.call(`${path}?limit=${limit}`)).status, 200, `${path} ${limit}`);
    }
  }
});

t.test('refuses a limit that is not in decimal digits', async t => {
  for (const path of lists) {
    for (const limit of [
      ...['1.5', '1.0', '0x10', '1e2', '%205', '5%20', '%2B5', '', '-1', '0', '101', 'ten', 'true'],
      ...['%D9%A1', '0b1', '0o7', '1_0', '1,0', 'Infinity', 'null', '99999999999999999999', '%00'],
    ]) {
      const answer = await app.call(`${path}?limit=${limit}`);
      t.equal(answer.status, 400, `${path} ${limit}`);
      t.equal(answer.json.code, 'validation_failed');
      t.equal(answer.json.errors[0]?.path, '/query/limit', `${path} ${limit} ${answer.text}`);
    }
    t.equal((await app.call(`${path}?limit=5&limit=6`)).status, 400, `${path} twice`);
    t.equal((await app.call(`${path}?limit`)).status, 400, `${path} without a value`);
  }
});
