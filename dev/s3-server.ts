import { execFile, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { isFree } from './free-port.ts';

const script = path.join(import.meta.dirname, 'ceph-rgw.sh');
const packages = ['ceph-mon', 'ceph-osd', 'radosgw', 'ceph-common'];

/** Address and users of the S3 server. Tests read it as JSON from `TEST_S3`. */
export interface S3Server {
  readonly endpoint: string;
  readonly httpsEndpoint: string;
  /** Self-signed certificate that clients must trust explicitly. */
  readonly caFile: string;
  readonly region: string;
  readonly bucket: string;
  readonly users: Readonly<Record<S3User, { accessKeyId: string; secretAccessKey: string }>>;
  /** Configuration file for `radosgw-admin -c`. */
  readonly confFile: string;
}

export type S3User = 'full' | 'putOnly' | 'readOnly' | 'nothing';

/**
 * Returns the reason why no S3 server can be started here, or null. In CI, missing packages are
 * installed. On a developer's machine nothing is installed.
 */
export function whyNoS3Server(isCi: boolean): string | null {
  if (process.platform !== 'linux' || spawnSync('dpkg-query', ['--version']).status !== 0) {
    return 'the S3 server (Ceph RADOS Gateway) needs Debian or Ubuntu';
  }
  if (process.getuid?.() !== 0) return 'the S3 server (Ceph RADOS Gateway) needs root';
  const missing = packages.filter(name => !isInstalled(name));
  if (missing.length === 0 || isCi) return null;
  return `not installed: ${missing.join(', ')} (apt-get install ${packages.join(' ')})`;
}

/** Starts the gateway with an empty store in a temporary directory. Takes 10 to 30 s. */
export async function startS3Server(): Promise<{ server: S3Server; remove: () => Promise<void> }> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-s3-'));
  const port = await freePortOfThree();
  const env = {
    ...process.env,
    S3LAB_DIR: directory,
    S3LAB_PORT: String(port),
    S3LAB_BUCKET: 'demo',
  };
  const call = async (command: string) =>
    await promisify(execFile)('bash', [script, command], { env });
  const remove = async () => {
    await call('wipe');
  };
  try {
    const { stdout } = await call('start');
    return { server: described(stdout, directory, port), remove };
  } catch (error) {
    await remove();
    throw new Error(
      `The S3 server did not start: ${error instanceof Error ? error.message : error}`,
    );
  }
}

function described(output: string, directory: string, port: number): S3Server {
  const user = (label: string) => {
    const [, accessKeyId, secretAccessKey] =
      new RegExp(`^${label} +(\\S+) (\\S+)$`, 'm').exec(output) ?? [];
    if (!accessKeyId || !secretAccessKey) throw new Error(`no user ${label}`);
    return { accessKeyId, secretAccessKey };
  };
  return {
    endpoint: `http://127.0.0.1:${port}`,
    httpsEndpoint: `https://127.0.0.1:${port + 1}`,
    caFile: path.join(directory, 'tls.crt'),
    region: 'us-east-1',
    bucket: 'demo',
    users: {
      full: user('full'),
      putOnly: user('put-only'),
      readOnly: user('read-only'),
      nothing: user('nothing'),
    },
    confFile: path.join(directory, 'ceph.conf'),
  };
}

function isInstalled(name: string): boolean {
  const { stdout } = spawnSync('dpkg-query', ['--status', name], { encoding: 'utf8' });
  return stdout.includes('\nStatus: install ok installed\n');
}

/** Returns the first of three free ports in a row: for http, for https and for the monitor. */
async function freePortOfThree(): Promise<number> {
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    const free = await Promise.all([port, port + 1, port + 2].map(isFree));
    if (free.every(Boolean)) return port;
  }
  throw new Error('no three free ports in a row');
}
