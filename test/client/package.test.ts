import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';

/** The package that `npm pack` makes of the client. */

const client = path.join(import.meta.dirname, '../../packages/client');

t.test('npm packs the build, which runs outside this repository, and no sources', async t => {
  const folder = t.testdir({ node_modules: { '@warehouse-export': {} } });
  const run = (program: string, ...args: string[]) =>
    promisify(execFile)(program, args, { cwd: folder });
  const pack = (source: string) =>
    run('npm', 'pack', source, '--json', '--offline', '--pack-destination', folder);

  await t.rejects(pack(client), /npm pack \.\/packages\/client\/dist/, 'the sources');
  const dist = path.join(folder, 'dist');
  await run(process.execPath, path.join(client, 'build.ts'), dist);
  await pack(dist);
  const [tarball = '', ...others] = fs.readdirSync(folder).filter(name => name.endsWith('.tgz'));
  t.match(tarball, /^warehouse-export-client-\d+\.\d+\.\d+\.tgz$/);
  t.same(others, []);

  await run('tar', '-xzf', tarball);
  const installed = path.join(folder, 'node_modules/@warehouse-export/client');
  fs.renameSync(path.join(folder, 'package'), installed);
  const files = fs.readdirSync(installed, { recursive: true, encoding: 'utf8' });
  t.same(
    files.filter(name => name.endsWith('.ts') && !name.endsWith('.d.ts')),
    [],
  );
  const program = path.join(folder, 'program.mjs');
  fs.writeFileSync(
    program,
    `import { createClient } from '@warehouse-export/client';
     const client = createClient({ baseUrl: 'http://127.0.0.1', token: '' });
     console.log(typeof client.api.listExports, typeof client.downloadExport);`,
  );
  t.equal((await run(process.execPath, program)).stdout, 'function function\n');
});
