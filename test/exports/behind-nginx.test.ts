import type { IncomingMessage } from 'node:http';
import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { open } from '../helpers/http-client.ts';
import { startNginx } from '../helpers/nginx.ts';
import { needsProgram } from '../helpers/programs.ts';
import { eventually } from '../helpers/raw-http.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { testAdminToken } from '../helpers/secrets.ts';

/** Downloads through a real nginx with its defaults and the settings of docs/operations.md. */

t.setTimeout(300_000);

const stallMs = 1_000;
/** More rows than the buffers between the service and the reader hold. */
const rows = 24_000;

/** The default limit of 1 GiB would need a larger file. */
const smallTemporaryFile = 'proxy_max_temp_file_size 128k;';
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
  // HTTP/1.0 would render the snapshot, for which the stall limit of this test leaves no time.
  await renderAll(app);

  const download = async (port: number, encoding: string) => {
    const response = await open(`http://127.0.0.1:${port}/v1/environments/acme/exports/today.csv`, {
      headers: { authorization: `Bearer ${testAdminToken}`, 'accept-encoding': encoding },
    });
    response.pause();
    return response;
  };
  const untilStalled = (count: number) =>
    eventually(async () => {
      const { text } = await app.call('/metrics');
      return text.includes(`whx_downloads_total{outcome="stalled"} ${count}`);
    }, `${count} stalled downloads`);

  await t.test('breaks a stalled download visibly', async t => {
    const stalled = await Promise.all(
      [['its defaults and a small temporary file', smallTemporaryFile], ...documented].map(
        async ([name = '', settings = '']) => {
          const port = await startNginx(t, app.port, settings);
          const responses = await Promise.all(encodings.map(encoding => download(port, encoding)));
          return responses.map((response, index) => ({
            what: `${name}, ${encodings[index]}`,
            response,
          }));
        },
      ),
    );
    await untilStalled(stalled.flat().length);
    for (const { what, response } of stalled.flat()) {
      await t.rejects(async () => {
        for await (const _ of response);
      }, `${what}: the reader notices that the file is incomplete`);
      t.equal(response.complete, false, what);
    }
  });

  const direct = (await app.download('acme', 'today')).body.length;
  /**
   * Reads part of the file in each quarter of the stall limit, for four times the stall limit.
   *
   * @returns the number of bytes
   */
  const readSlowly = async (response: IncomingMessage): Promise<number> => {
    let bytes = 0;
    const startedAt = performance.now();
    for await (const chunk of response) {
      bytes += chunk.length;
      const dueMs = (bytes / direct) * 4 * stallMs;
      await eventually(
        () => performance.now() - startedAt >= dueMs,
        'the next quarter of the stall limit',
      );
    }
    return bytes;
  };

  await t.test('serves slow readers the complete file with the documented settings', async t => {
    await Promise.all(
      documented.map(async ([name, settings]) => {
        const port = await startNginx(t, app.port, settings);
        const response = await download(port, 'identity');
        t.equal(await readSlowly(response), direct, name);
        t.equal(response.complete, true, name);
      }),
    );
  });
});
