import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { open } from '../helpers/http-client.ts';
import { startNginx } from '../helpers/nginx.ts';
import { needsProgram } from '../helpers/programs.ts';
import { eventually } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';

/** Downloads through a real nginx with its defaults and the settings of docs/operations.md. */

t.setTimeout(300_000);

const stallMs = 1_000;
/** More rows than the buffers between the service and the reader hold. */
const rows = 60_000;

/** The default limit of 1 GiB would need a larger file. */
const smallTemporaryFile = 'proxy_max_temp_file_size 2m;';
const documented = [
  ['proxy_buffering off', 'proxy_buffering off;'],
  ['proxy_max_temp_file_size 0', 'proxy_max_temp_file_size 0;'],
  ['proxy_http_version 1.1', 'proxy_buffering off; proxy_http_version 1.1;'],
] as const;
const encodings = ['identity', 'gzip'] as const;

t.test('downloads files through nginx', needsProgram('nginx'), async t => {
  const app = await startTestApp(t, {
    adjust: dependencies => Object.assign(dependencies, { downloadStallMs: stallMs }),
  });
  await app.putEnvironment('acme', 'pro');
  await writeDenseSnapshot(app.database.pool, { environmentId: 'acme', date: '2026-03-02', rows });

  const download = async (port: number, encoding: string) => {
    const response = await open(`http://127.0.0.1:${port}/v1/environments/acme/exports/today.csv`, {
      headers: { authorization: `Bearer ${testAdminToken}`, 'accept-encoding': encoding },
    });
    response.pause();
    return response;
  };
  const untilEnded = (count: number, outcome: string) =>
    eventually(async () => {
      const { text } = await app.call('/metrics');
      return text.includes(`whx_downloads_total{outcome="${outcome}"} ${count}`);
    }, `${count} downloads ${outcome}`);
  let stalled = 0;

  for (const [name, settings] of [
    ['its defaults and a small temporary file', smallTemporaryFile],
    ...documented,
  ] as const) {
    t.test(`breaks a stalled download visibly with ${name}`, async t => {
      const port = await startNginx(t, app.port, settings);
      for (const encoding of encodings) {
        const response = await download(port, encoding);
        stalled += 1;
        await untilEnded(stalled, 'stalled');
        await t.rejects(async () => {
          for await (const _ of response);
        }, `${encoding}: the reader notices that the file is incomplete`);
        t.equal(response.complete, false, encoding);
      }
    });
  }

  const direct = (await app.download('acme', 'today')).body.length;
  for (const [name, settings] of documented) {
    t.test(`serves a slow reader the complete file with ${name}`, async t => {
      const port = await startNginx(t, app.port, settings);
      const response = await download(port, 'identity');
      let bytes = 0;
      const startedAt = performance.now();
      // Reads part of the file in each quarter of the stall limit, for four times the stall limit.
      for await (const chunk of response) {
        bytes += chunk.length;
        const dueMs = (bytes / direct) * 4 * stallMs;
        await eventually(
          () => performance.now() - startedAt >= dueMs,
          'the next quarter of the stall limit',
        );
      }
      t.equal(bytes, direct);
      t.equal(response.complete, true);
    });
  }
});
