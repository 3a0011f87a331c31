import t from 'tap';
import { sealSecret } from '../../src/encryption/secrets.ts';
import { enqueueDue } from '../../src/export-runs/enqueue-due.ts';
import {
  configBody,
  credentialsOf,
  makeConfig,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { contentsOf, needsS3, s3Destination } from '../helpers/s3.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { until } from '../helpers/until.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

/** The credentials of a config stop working for two weeks of slots. */

t.setTimeout(300_000);

const dayOf = (day: number) => `2026-03-${String(day).padStart(2, '0')}`;

t.test(
  'turns a config off after ten slots with wrong credentials and lets it be enabled again',
  needsS3,
  async t => {
    const receiver = await startWebhookReceiver(t);
    const app = await startExportApp(t, { now: '2026-03-01T10:00:00.000Z' });
    const { pool } = app.database;
    const { db, jobs } = app.dependencies;
    const json = {
      name: 'acme',
      plan: 'enterprise',
      failureWebhook: receiver.url,
      webhookEvents: ['export.succeeded', 'export.failed', 'export.recovered', 'export.turned_off'],
    };
    const saved = await app.call('/v1/environments/acme', { method: 'PUT', json });
    const secret = registerSecret(saved.json.failureWebhookSecret);
    const { id, key } = await makeConfig(app, 'acme', configBody('full', { manifest: true }));
    const path = `/v1/environments/acme/export-configs/${id}`;
    const breakSecret = async () => {
      const owner = { environmentId: 'acme', configId: id };
      const wrong = sealSecret(
        app.config.encryptionKeys,
        registerSecret('wrong-secret-0123456789'),
        owner,
      );
      await pool.query('update export_configs set sealed_secret = $1', [wrong]);
    };
    await breakSecret();
    const worker = startExportWorker(t, app);
    /**
     * Inserts the snapshot of the day before, passes the slot at the start of the day and awaits
     * its run.
     */
    const pass = async (day: number) => {
      await fillSnapshot(pool, 'acme', dayOf(day - 1), 3);
      app.setNow(`${dayOf(day)}T00:00:01.000Z`);
      await enqueueDue(db, jobs, new Date(`${dayOf(day)}T00:00:01.000Z`));
      worker.wake();
      return await until(
        async () => (await app.call(`${path}/runs?limit=1`)).json.items[0],
        run => run?.slot === `${dayOf(day)}T00:00:00.000Z` && run.finishedAt !== null,
      );
    };

    for (let day = 2; day <= 11; day += 1) {
      t.match((await app.call(path)).json, { enabled: true, status: { turnedOff: null } });
      t.match(await pass(day), {
        state: 'failed',
        attempts: 1,
        error: { code: 'secret_key_mismatch' },
      });
    }
    const { json: off } = await app.call(path);
    t.match(off, {
      enabled: false,
      status: {
        status: 'failed',
        nextRunAt: null,
        turnedOff: {
          code: 'too_many_failures',
          message: /^10 slots in a row/,
          at: '2026-03-11T00:00:01.000Z',
        },
      },
    });
    worker.wake();
    await receiver.count(11);
    const types = () => receiver.received.map(message => message.json.type).sort();
    t.strictSame(types(), [...Array(10).fill('export.failed'), 'export.turned_off']);
    const failures = receiver.received.filter(message => message.json.type === 'export.failed');
    t.strictSame(
      failures.map(message => message.json.data.consecutiveFailures).sort((a, b) => a - b),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    );

    // The config is off: no further slot is enqueued.
    await fillSnapshot(pool, 'acme', dayOf(11), 3);
    t.match(await enqueueDue(db, jobs, new Date('2026-03-12T00:00:01.000Z')), { added: 0 });

    app.setNow('2026-03-12T09:00:00.000Z');
    const refused = await app.call(path, { method: 'PATCH', json: { enabled: true } });
    t.match(refused.json, { status: 422, storageError: { code: 'secret_key_mismatch' } });
    t.match((await app.call(path)).json, { enabled: false, status: off.status });
    const { secretAccessKey } = credentialsOf('full');
    const mended = await app.call(path, {
      method: 'PATCH',
      json: { enabled: true, secretAccessKey },
    });
    t.match(mended.json, {
      enabled: true,
      status: { turnedOff: null, nextRunAt: '2026-03-13T00:00:00.000Z' },
    });
    t.equal(mended.json.status.turnedOff, null);

    // The count starts at zero: one more failure does not turn the config off.
    await breakSecret();
    t.match(await pass(13), { state: 'failed' });
    t.equal((await app.call(path)).json.enabled, true);
    await app.call(path, { method: 'PATCH', json: { secretAccessKey } });
    t.match(await pass(14), { state: 'successful' });
    const last = await pass(15);
    t.match(last, { state: 'successful' });
    worker.wake();
    await receiver.count(15);
    await until(
      async () =>
        (
          await pool.query(
            `select from pgboss.job where name = 'deliver-webhook' and state < 'completed'`,
          )
        ).rowCount,
      count => count === 0,
    );
    t.strictSame(types(), [
      ...Array(11).fill('export.failed'),
      'export.recovered',
      ...Array(2).fill('export.succeeded'),
      'export.turned_off',
    ]);
    t.ok(receiver.received.every(message => message.isSignedWith(secret)));
    const { objects } = await contentsOf(s3Destination({ key }));
    t.equal(objects.length, 4);
    const succeeded = receiver.received
      .map(message => message.json)
      .find(({ data }) => data.runId === last.id);
    const manifestKey = `${key}/_manifest/company-adoption_acme_2026-03-14.csv.json`;
    t.ok(objects.includes(manifestKey));
    t.strictSame(succeeded, {
      type: 'export.succeeded',
      timestamp: '2026-03-15T00:00:01.000Z',
      data: {
        environmentId: 'acme',
        configId: id,
        configName: 'Nightly',
        runId: last.id,
        slot: '2026-03-15T00:00:00.000Z',
        snapshotDate: '2026-03-14',
        objectKey: last.objectKey,
        manifestKey,
        bytes: last.bytes,
        rowCount: 3,
        sha256: last.sha256,
      },
    });
  },
);
