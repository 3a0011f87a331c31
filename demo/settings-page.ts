import { createHash } from 'node:crypto';
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { FastifyPluginAsync } from 'fastify';
import { runProgram } from '../dev/run-program.ts';

const root = path.join(import.meta.dirname, '..');
const page = path.join(root, 'examples/settings-page');

const contentTypes: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
};

/** Data that the page reads from `session.json`. */
export interface Session {
  readonly environmentId: string;
  readonly token: string;
  /** Values of the form for a new export. */
  readonly defaults: Readonly<Record<string, string>>;
}

/** Compiles the client for browsers. */
export async function buildClient(folder: string, signal: AbortSignal): Promise<void> {
  const script = path.join(root, 'packages/client/build.ts');
  await runProgram(process.execPath, [script, folder], { signal });
}

/**
 * Serves the settings page at `/demo/`.
 *
 * @param clientFolder folder with the compiled client
 */
export function settingsPage(
  clientFolder: string,
  createSession: () => Promise<Session>,
): FastifyPluginAsync {
  const files = new Map<string, string>([
    ['', path.join(page, 'index.html')],
    ...['settings-page.css', 'settings-page.js'].map(
      name => [name, path.join(page, name)] as const,
    ),
    ...globSync('**/*.js', { cwd: clientFolder }).map(
      name => [`client/${name.split(path.sep).join('/')}`, path.join(clientFolder, name)] as const,
    ),
  ]);
  const html = readFileSync(path.join(page, 'index.html'), 'utf8');
  const [, importMap = ''] = /<script type="importmap">(.*?)<\/script>/s.exec(html) ?? [];
  const headers = {
    'cache-control': 'no-cache',
    'x-content-type-options': 'nosniff',
    // Only the import map may be inline. A product adds the origins of its service to connect-src.
    'content-security-policy': [
      "default-src 'none'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'",
      `script-src 'self' 'sha256-${createHash('sha256').update(importMap).digest('base64')}'`,
      "form-action 'none'; frame-ancestors 'none'",
    ].join('; '),
  };
  const options = { config: { access: 'public' as const }, schema: { hide: true } };
  return async app => {
    app.get('/demo', options, (_request, reply) => reply.redirect('/demo/'));
    app.get('/demo/session.json', options, () => createSession());
    for (const [name, file] of files) {
      const type = contentTypes[path.extname(file)] ?? 'application/octet-stream';
      app.get(`/demo/${name}`, options, async (_request, reply) =>
        reply.headers(headers).type(type).send(readFileSync(file)),
      );
    }
  };
}
