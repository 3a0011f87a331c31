import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { freePort } from '../../dev/free-port.ts';
import { startProgram } from './programs.ts';
import { connectRaw } from './raw-http.ts';
import { waitFor } from './wait-for.ts';

/**
 * Starts nginx in front of a service on 127.0.0.1.
 *
 * @param settings lines of its `location` block
 * @returns its port
 */
export async function startNginx(
  t: { teardown(handler: () => Promise<void>): void },
  servicePort: number,
  settings: string,
): Promise<number> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-nginx-'));
  t.teardown(async () => fs.rmSync(directory, { recursive: true, force: true }));
  const port = await freePort();
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    kind => `${kind}_temp_path ${path.join(directory, kind)};`,
  );
  const configFile = path.join(directory, 'nginx.conf');
  fs.writeFileSync(
    configFile,
    `${process.getuid?.() === 0 ? 'user root;' : ''}
    daemon off;
    worker_processes 1;
    pid ${path.join(directory, 'nginx.pid')};
    error_log stderr;
    events {}
    http {
      access_log off;
      ${temporary.join('\n')}
      server {
        # A reader that stalls is noticed after few bytes.
        listen 127.0.0.1:${port} sndbuf=64k;
        location / {
          proxy_pass http://127.0.0.1:${servicePort};
          ${settings}
        }
      }
    }`,
  );
  startProgram(t, 'nginx', ['-p', directory, '-c', configFile, '-e', 'stderr']);
  await waitFor('nginx', async () => {
    const connection = await connectRaw(port).catch(() => null);
    connection?.socket.destroy();
    return connection !== null;
  });
  return port;
}
