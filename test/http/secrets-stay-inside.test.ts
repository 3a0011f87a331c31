import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import type { Call } from '../helpers/app.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { type Answer, ask } from '../helpers/http-client.ts';
import { makeIssuerKey, startIssuer } from '../helpers/issuer.ts';
import { needsS3, s3Server } from '../helpers/s3.ts';
import { registerSecret, testAdminToken, testEncryptionKeys } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

/**
 * Searches everything that leaves the service for every secret: bodies, headers, log lines, jobs
 * and the audit log.
 */

t.test('sends, logs and queues no secrets, sealed secrets, nonces or keys', needsS3, async t => {
  const issuer = await startIssuer(t);
  const issuerKey = await makeIssuerKey('ec');
  await issuer.publish(issuerKey);
  const app = await startExportApp(t, { env: { ...issuer.env, LOG_LEVEL: 'trace' } });
  const { pool } = app.database;
  const worker = startExportWorker(t, app);

  const left: string[] = [];
  const record = (answer: Answer, ...shown: readonly string[]) => {
    const text = `${JSON.stringify(answer.headers)}\n${answer.text}`;
    // A secret that an answer must show is removed from the record of that answer only.
    left.push(shown.reduce((rest, secret) => rest.replace(secret, '[shown]'), text));
    return answer;
  };
  const webhookSecrets: string[] = [];
  const call = async (path: string, options?: Call) => {
    const answer = await app.call(path, options);
    const [, webhookSecret] = /"failureWebhookSecret":"([^"]+)"/.exec(answer.text) ?? [];
    if (webhookSecret === undefined) return record(answer);
    webhookSecrets.push(registerSecret(webhookSecret));
    return record(answer, webhookSecret);
  };

  // An environment with every kind of secret.
  const environment = '/v1/environments/acme';
  const tenant = { name: 'Acme', plan: 'enterprise', failureWebhook: 'http://127.0.0.1:1/' };
  await call(environment, { method: 'PUT', json: tenant });
  await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
  const all = ['exports:read', 'exports:write', 'snapshots:write'];
  const makeKey = async () => {
    const answer = await app.call(`${environment}/api-keys`, {
      method: 'POST',
      json: { name: 'k', scopes: all },
    });
    record(answer, registerSecret(answer.json.key));
    return { id: String(answer.json.id), token: String(answer.json.key) };
  };
  const [key, revoked] = [await makeKey(), await makeKey()];
  const user = await issuer.token(issuerKey, { scope: all.join(' ') });
  const links: string[] = [];
  for (const token of [testAdminToken, key.token, user]) {
    const json = { aggregation: 'today' };
    const answer = await app.call(`${environment}/download-links`, { method: 'POST', token, json });
    const link = registerSecret(String(answer.json.url.split('/').at(-1)));
    record(answer, link);
    links.push(link);
    record(await ask(answer.json.url));
    record(await ask(`${answer.json.url}x`));
  }

  // Creates a config that works and one whose stored secret is broken. Many others are refused.
  const config = await makeConfig(app, 'acme', configBody('full', { manifest: true }));
  const broken = await makeConfig(app, 'acme');
  const stored = async () => {
    const { rows } = await pool.query<{ sealed_secret: string }>(
      'select sealed_secret from export_configs union select sealed_secret from failure_webhooks',
    );
    return rows.map(row => row.sealed_secret);
  };
  const sealed = await stored();
  const wrong = registerSecret('wrong-secret-of-the-customer-0123456789');
  const configs = `${environment}/export-configs`;
  const { secretAccessKey, ...withoutSecret } = configBody();
  for (const [index, json] of [
    configBody('full', { secretAccessKey: wrong }),
    configBody('nothing'),
    configBody('full', { bucket: 'no-such-bucket' }),
    configBody('full', { endpoint: 'https://10.0.0.1' }),
    configBody('full', { schedule: secretAccessKey }),
    configBody('full', { more: secretAccessKey }),
    { ...withoutSecret, secretAccessKey: [secretAccessKey] },
    { ...withoutSecret, secretAccessKey: { value: secretAccessKey } },
    { ...withoutSecret, secretAccessKey: `${secretAccessKey}\n` },
  ].entries()) {
    // Each body goes to one of three routes. The first body, whose secret S3 refuses, goes to all.
    const routes = [
      ['POST', configs],
      ['POST', `${configs}/validate`],
      ['PATCH', `${configs}/${config.id}`],
    ] as const;
    const some = index === 0 ? routes : routes.slice(index % 3, (index % 3) + 1);
    for (const [method, path] of some) await call(path, { method, json });
  }
  await call(configs, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: `{"a":"${wrong}`,
  });
  sealed.push(...(await stored()));
  await pool.query(
    `update export_configs set sealed_secret = left(sealed_secret, -1)
       || case when right(sealed_secret, 1) = 'A' then 'Q' else 'A' end where id = $1`,
    [broken.id],
  );

  const runs = runReader(app, 'acme');
  const runIds: string[] = [];
  for (const { id } of [config, broken]) {
    const run = await call(`${configs}/${id}/runs`, { method: 'POST', json: {} });
    t.equal(run.status, 202, run.text);
    runIds.push(run.json.id);
  }
  for (const id of runIds) {
    await waitFor(
      `the end of run ${id}`,
      async () => {
        // A secret that does not open is tried three times. The pauses are up to half a minute.
        await hastenRetries(pool);
        return await runs.read(id);
      },
      { isWanted: ({ state }) => state === 'successful' || state === 'failed' },
    );
  }
  t.equal((await runs.read(runIds[0] ?? '')).state, 'successful');
  t.equal((await runs.read(runIds[1] ?? '')).state, 'failed');

  // Tokens in wrong places of a request.
  const encodedToken = testAdminToken.replace(/./, first => `%${first.charCodeAt(0).toString(16)}`);
  for (const token of [testAdminToken, encodedToken, key.token, key.token.split('_')[2] ?? '']) {
    for (const path of [
      `/v1/environments/${token}`,
      `/v1/environments/acme/api-keys/${token}`,
      `/v1/environments?token=${token}`,
      `/v1/audit-log?action=${token}`,
      `/${token}/%zz`,
    ]) {
      await call(path, { token: null });
      await call(path, { headers: { 'x-request-id': token, 'x-forwarded-for': token } });
    }
  }

  // Calls every route as the operator and as one of the other callers in turn.
  const others = [key.token, user, null, `${key.token.slice(0, -1)}x`, `${user}x`];
  const { paths } = app.app.swagger() as { paths: Record<string, Record<string, unknown>> };
  let calls = 0;
  for (const [template, methods] of Object.entries(paths)) {
    const path = template
      .replace('{environmentId}', 'acme')
      .replace('{configId}', config.id)
      .replace('{runId}', runIds[1] ?? '')
      .replace('{backfillId}', 'no-such')
      .replace('{keyId}', key.id)
      .replace('{aggregation}', 'today')
      .replace('{date}', '2026-03-01')
      .replace('{token}', links[1] ?? '');
    t.notMatch(path, /[{}]/);
    for (const method of Object.keys(methods).map(name => name.toUpperCase())) {
      const other = others[calls % others.length] ?? null;
      // Deletions with a token follow at the end.
      for (const token of method === 'DELETE' ? [null] : [testAdminToken, other]) {
        const json = ['POST', 'PATCH', 'PUT'].includes(method) ? { name: 'x' } : undefined;
        await call(path, { method, token, ...(json && { json }) });
        calls += 1;
      }
    }
  }
  t.ok(calls > 60);
  await call(`${environment}/api-keys/${revoked.id}`, { method: 'DELETE' });
  await call(environment, { token: revoked.token });
  await call(`${configs}/${config.id}`, { method: 'DELETE' });
  const inDatabase = await pool.query<{ line: string }>(`
    select j::text as line from pgboss.job j union all select r::text from export_runs r
    union all select a::text from audit_log a union all select e::text from webhook_events e`);
  t.ok(inDatabase.rows.length > 5);
  const hashes = await pool.query<{ secret_hash: Buffer }>('select secret_hash from api_keys');
  await call(environment, { method: 'DELETE' });
  await worker.stop();

  const hidden = new Map<string, string>();
  const hide = (name: string, secret: string) => {
    if (secret.length < 16) throw new Error(`${name} is too short to search for`);
    hidden.set(name, secret);
  };
  /** Adds a secret in each form that code might write it in. */
  const hideBytes = (name: string, bytes: Buffer) => {
    for (const form of ['base64', 'base64url', 'hex'] as const) {
      hide(`${name} as ${form}`, bytes.toString(form).replace(/=+$/, ''));
    }
  };
  hide('operator token', testAdminToken);
  hide('database URL', app.config.databaseUrl);
  for (const [name, entry] of Object.entries(testEncryptionKeys)) {
    hideBytes(`encryption key ${name}`, Buffer.from(entry.slice(entry.indexOf(':') + 1), 'base64'));
  }
  for (const [name, { secretAccessKey }] of Object.entries(s3Server().users)) {
    hide(`secret of ${name}`, secretAccessKey);
    hideBytes(`secret of ${name}`, Buffer.from(secretAccessKey));
  }
  hide('refused secret', wrong);
  t.ok(webhookSecrets.length > 1, 'the first webhook secret and a new one');
  for (const [index, secret] of webhookSecrets.entries()) hide(`webhook secret ${index}`, secret);
  for (const [index, value] of sealed.entries()) {
    const bytes = Buffer.from(value.split('.')[2] ?? '', 'base64url');
    hide(`sealed ${index}`, value);
    hideBytes(`nonce ${index}`, bytes.subarray(0, 12));
    hideBytes(`ciphertext ${index}`, bytes.subarray(12, -16));
    hideBytes(`tag ${index}`, bytes.subarray(-16));
  }
  for (const { token, id } of [key, revoked]) hide(`API key ${id}`, token.split('_')[2] ?? '');
  for (const [index, row] of hashes.rows.entries()) hideBytes(`hash ${index}`, row.secret_hash);
  hide('access token', user);
  hide('signature of the access token', user.split('.')[2] ?? '');
  for (const [index, link] of links.entries())
    hide(`signature of link ${index}`, link.split('.')[2] ?? '');

  const places = {
    answers: left.join('\n'),
    log: app.log.map(line => JSON.stringify(line)).join('\n'),
    'jobs, runs and audit log': inDatabase.rows.map(({ line }) => line).join('\n'),
  };
  t.ok(places.log.includes(configs), 'the log has the requests');
  for (const [place, text] of Object.entries(places)) {
    const found = [...hidden].filter(([, secret]) => text.includes(secret)).map(([name]) => name);
    t.strictSame(found, [], place);
  }
  t.ok(hidden.size > 40);
});
