import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { freePort } from '../../dev/free-port.ts';
import { makeWebhookSecret, signatureHeaders } from '../../src/webhooks/signature.ts';
import { credentialsOf, startExportApp, startExportWorker } from '../helpers/export-configs.ts';
import { startProgram } from '../helpers/programs.ts';
import { eventually } from '../helpers/raw-http.ts';
import { freshPrefix, needsS3, s3Server } from '../helpers/s3.ts';
import { registerSecret } from '../helpers/secrets.ts';

/** Runs the programs of the client's README as a reader would. */

const root = path.join(import.meta.dirname, '../..');
const readme = fs.readFileSync(path.join(root, 'packages/client/README.md'), 'utf8');
const sections = new Map(
  [...readme.matchAll(/^## ([^\n]+)\n[^#]*?^```ts\n(.*?)^```$/gms)].map(
    ([, title = '', code = '']) => [title, code],
  ),
);
const setup = sections.get('Create a client') ?? '';
sections.delete('Create a client');

t.test('the programs in the README of the client', needsS3, async t => {
  // Each program asks for the real date.
  const app = await startExportApp(t, { now: new Date().toISOString() });
  startExportWorker(t, app);
  await app.putEnvironment('acme');
  const key = await app.makeKey('acme', ['exports:write', 'snapshots:write']);
  const { endpoint, bucket, region } = s3Server();
  const secret = registerSecret(makeWebhookSecret());
  const port = await freePort();
  const prefix = freshPrefix();
  const values = (keys = credentialsOf('full')): Readonly<Record<string, string>> => ({
    'https://export.example.com': app.origin,
    'whx_…': key.token,
    'https://storage.example.com': endpoint,
    'my-bucket': bucket,
    'eu-west-1': region,
    "'exports'": `'${prefix}'`,
    'my-access-key': keys.accessKeyId,
    'my-secret-key': keys.secretAccessKey,
    'whsec_…': secret,
    'listen(8080)': `listen(${port}, '127.0.0.1')`,
  });
  const folder = t.testdir();
  let count = 0;
  const write = (title: string, keys?: ReturnType<typeof credentialsOf>): string => {
    let program = setup + (sections.get(title) ?? '');
    for (const [placeholder, value] of Object.entries(values(keys))) {
      program = program.replaceAll(placeholder, value);
    }
    const file = path.join(folder, `program-${count++}.ts`);
    fs.writeFileSync(file, program);
    return file;
  };
  const run = async (...args: Parameters<typeof write>): Promise<string> =>
    (await promisify(execFile)(process.execPath, [write(...args)], { cwd: folder })).stdout;

  const titles = [...sections.keys()];
  t.equal(titles.length, 5, 'the five tasks');

  await t.test('have no type errors', async t => {
    const files = titles.map(title => write(title));
    const project = path.join(folder, 'tsconfig.json');
    const extended = path.join(root, 'tsconfig.json');
    fs.writeFileSync(project, JSON.stringify({ extends: extended, files, include: [] }));
    const tsc = path.join(root, 'node_modules/typescript/lib/tsc.js');
    const args = [tsc, '--noUnusedLocals', 'false', '--project', project];
    const { code, stdout } = await promisify(execFile)(process.execPath, args).then(
      result => ({ ...result, code: 0 }),
      (error: { code: number; stdout: string }) => error,
    );
    t.same({ code, stdout }, { code: 0, stdout: '' });
  });

  await t.test('ingest a snapshot and download an export', async t => {
    t.match(await run('Ingest the snapshot of a day'), /^Stored version \S+\. Rows: 1\n$/);
    const output = await run('Download an export with progress');
    const [, name = ''] = /^(acme_today_[\d-]+\.csv) is complete\. Rows: 1$/m.exec(output) ?? [];
    const { length } = fs.readFileSync(path.join(folder, name));
    t.match(output, new RegExp(`^${length} of (${length}|\\?) bytes$`, 'm'));
  });

  await t.test('save an export config, start a run and read the status', async t => {
    const wrong = { accessKeyId: 'WRONG', secretAccessKey: registerSecret('w'.repeat(40)) };
    t.match(
      await run('Save an automatic export', wrong),
      /^The storage does not recognise the access key id\. Copy .+\n$/,
    );
    t.match(
      await run('Save an automatic export'),
      /^Saved as \S+\. Next export: \S+T00:00:00.000Z\n$/,
    );
    const output = await run('Run now and read the status');
    t.match(
      output,
      /^Run of [\d-]+: successful\nNightly to our bucket: successful\n\S+ successful \S+\.csv\n/,
    );
  });

  await t.test('receive a webhook', async t => {
    const { send, output } = await startReceiver(t, write('Receive a webhook'), port);
    const body = JSON.stringify({
      type: 'export.failed',
      timestamp: new Date().toISOString(),
      data: { configName: 'Nightly', error: { code: 'unknown', message: 'The bucket is gone.' } },
    });
    const headers = signatureHeaders(secret, { id: 'msg_1', body }, new Date());
    t.equal(await send(body, headers), 204);
    t.equal(await send(`${body} `, headers), 400);
    const text = { id: 'msg_2', body: 'text' };
    const fault = await send(text.body, signatureHeaders(secret, text, new Date()));
    t.equal(fault, 500, 'an error that the sender did not cause');
    await eventually(
      () => /missing\nNightly The bucket is gone\.\n.*does not match.*\n.*JSON/.test(output()),
      'the output of both messages',
    );
  });
});

async function startReceiver(t: Test, file: string, port: number) {
  const { stdout } = startProgram(t, process.execPath, [file]);
  const send = async (body: string, headers: Record<string, string>) =>
    (await fetch(`http://127.0.0.1:${port}`, { method: 'POST', body, headers })).status;
  await eventually(
    () =>
      send('', {}).then(
        () => true,
        () => false,
      ),
    'the receiver',
  );
  return { send, output: stdout };
}
