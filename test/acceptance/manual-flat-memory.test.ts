import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import t from 'tap';
import {
  adoptionRow,
  exportHeader,
  exportLine,
  ingestColumns,
  ingestLine,
} from '../helpers/adoption-rows.ts';
import { ask, open } from '../helpers/http-client.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { eventually } from '../helpers/raw-http.ts';
import { testAdminToken, testEncryptionKeys } from '../helpers/secrets.ts';
import { compileCache, startFlags } from '../helpers/start-flags.ts';

const mebibyte = 2 ** 20;
const leastBytes = 300 * mebibyte;
/**
 * Memory that V8 and malloc keep for later chunks. A buffered body or file would need three times
 * as much.
 */
const mostGrowthMiB = 128;

if (process.platform !== 'linux') t.bailout('reads /proc');

/** Starts the service in a separate process, as in production. */
async function startService(databaseUrl: string, env: Record<string, string>) {
  const child = spawn(process.execPath, [...startFlags(), 'src/main.ts'], {
    cwd: path.join(import.meta.dirname, '../..'),
    env: {
      PATH: process.env['PATH'] ?? '',
      DATABASE_URL: databaseUrl,
      ADMIN_TOKEN: testAdminToken,
      ENCRYPTION_KEYS: testEncryptionKeys.first,
      PORT: '0',
      ...compileCache(),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  t.teardown(async () => {
    if (child.exitCode !== null) return;
    child.kill('SIGTERM');
    await once(child, 'exit');
  });
  let origin = '';
  await eventually(
    () => {
      origin = /http:\/\/127\.0\.0\.1:\d+/.exec(output)?.[0] ?? '';
      return origin !== '';
    },
    'the start of the service',
    120_000,
  );

  const residentMiB = () => {
    const status = fs.readFileSync(`/proc/${child.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
  };
  /** Returns the highest memory while `work` runs. */
  const peakDuring = async (work: () => Promise<void>) => {
    let peak = residentMiB();
    const sampler = setInterval(() => {
      peak = Math.max(peak, residentMiB());
    }, 20);
    try {
      await work();
    } finally {
      clearInterval(sampler);
    }
    return peak;
  };
  return { origin, residentMiB, peakDuring };
}

const authorization = { authorization: `Bearer ${testAdminToken}` };
const row = (id: number) =>
  adoptionRow({
    companyId: `company-${String(id).padStart(9, '0')}`,
    companyName: 'A name as long as names of companies may well be, and then some more of it',
    firstUsed: '2026-01-01T00:00:00.000Z',
    lastUsed: '2026-02-01T00:00:00.000Z',
    segmentNames: ['Everybody', 'Paying', 'In the European Union'],
    segmentIds: ['segment-1', 'segment-2', 'segment-3'],
  });
const rowCount = Math.ceil(leastBytes / ingestLine(row(0)).length);

/** Yields the body while it is sent. */
function* bodyPieces(): Generator<Buffer> {
  yield Buffer.from(`${ingestColumns.join(',')}\n`);
  const template = ingestLine(row(0));
  for (let id = 0; id < rowCount; id += 500) {
    let piece = '';
    for (let next = id; next < Math.min(id + 500, rowCount); next += 1) {
      piece += template.replace('000000000', String(next).padStart(9, '0'));
    }
    yield Buffer.from(piece);
  }
}

const database = await createTestDatabase(t);
const today = new Date().toISOString().slice(0, 10);
const service = await startService(database.url, {});

t.test(
  'needs constant memory for a body and an export of 300 MB',
  { timeout: 110_000 },
  async t => {
    await ask(`${service.origin}/v1/environments/big`, {
      method: 'PUT',
      headers: { ...authorization, 'content-type': 'application/json' },
      body: JSON.stringify({ name: 'big', plan: 'pro' }),
    });
    const idle = service.residentMiB();

    const ingesting = await service.peakDuring(async () => {
      const answer = await ask(`${service.origin}/v1/environments/big/snapshots/${today}`, {
        method: 'PUT',
        headers: { ...authorization, 'content-type': 'text/csv' },
        body: Readable.from(bodyPieces()),
      });
      t.equal(answer.status, 201, answer.text);
      t.equal(answer.json.rowCount, rowCount);
    });
    t.ok(
      ingesting - idle < mostGrowthMiB,
      `ingest: idle ${idle.toFixed(0)} MiB, highest ${ingesting.toFixed(0)} MiB`,
    );

    const expectedBytes = exportHeader.length + rowCount * exportLine(row(0), today).length;
    for (const time of ['first', 'second']) {
      let bytes = 0;
      const sending = await service.peakDuring(async () => {
        const response = await open(`${service.origin}/v1/environments/big/exports/today.csv`, {
          headers: authorization,
        });
        for await (const chunk of response) bytes += chunk.length;
      });
      t.equal(bytes, expectedBytes);
      t.ok(bytes >= leastBytes);
      t.ok(sending - idle < mostGrowthMiB, `${time} export: highest ${sending.toFixed(0)} MiB`);
    }
  },
);
