import { PutObjectCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import { createS3Client, runTimeouts } from '../../src/destinations/s3/client.ts';
import { createSlowLane } from '../../src/export-runs/slow-lane.ts';
import { parseEndpointAllowlist } from '../../src/outbound/endpoint-allowlist.ts';
import type { FileFormat } from '../../src/shared/file-format.ts';
import { fakeEndpoint } from '../destinations/s3/fake-endpoint.ts';

const mebibyte = 1024 * 1024;

function laneWithClock(places = 1) {
  let nowMs = 0;
  const lane = createSlowLane({
    places,
    parquetPlaces: 1,
    graceMs: 120_000,
    minBytesPerSecond: 2 * mebibyte,
    rememberMs: 3_600_000,
    now: () => nowMs,
  });
  const admit = (environmentId: string, format: FileFormat = 'csv') => {
    const pass = lane.admit(environmentId, format);
    if (pass === null) throw new Error(`${environmentId} was not admitted`);
    return pass;
  };
  return {
    lane,
    admit,
    pass: (ms: number) => {
      nowMs += ms;
    },
  };
}

t.test('lets a storage continue that accepts enough bytes', async t => {
  const { admit, pass } = laneWithClock();
  const attempt = admit('fast');
  for (let second = 0; second < 600; second += 1) {
    const ended = attempt.pace.start();
    pass(1_000);
    ended(3 * mebibyte);
  }
  t.equal(attempt.mayContinue(), true);
});

t.test('does not count time without a request in progress', async t => {
  const { admit, pass, lane } = laneWithClock();
  const attempt = admit('slow-database');
  attempt.pace.start()(10);
  pass(10_000_000);
  t.equal(attempt.mayContinue(), true);
  t.not(lane.admit('slow-database', 'csv'), null, 'its environment is not slow');
});

t.test('counts parallel requests once', async t => {
  const { admit, pass } = laneWithClock();
  const attempt = admit('parallel');
  const other = admit('holder');
  other.pace.start();
  const ends = [1, 2, 3, 4].map(() => attempt.pace.start());
  pass(100_000);
  for (const end of ends) end(10);
  pass(50_000);
  t.equal(other.mayContinue(), true, 'the other attempt takes the only place');
  t.equal(attempt.mayContinue(), true, 'waited for 100 s');
});

t.test('ends a slow attempt when the lane is full, and starts its environment there', async t => {
  const { admit, pass, lane } = laneWithClock();
  const [first, second] = [admit('a'), admit('b')];
  first.pace.start();
  second.pace.start();
  pass(119_000);
  t.equal(first.mayContinue() && second.mayContinue(), true, 'within the grace');
  pass(2_000);
  t.equal(first.mayContinue(), true);
  t.equal(second.mayContinue(), false);
  second.leave();
  t.equal(lane.admit('b', 'csv'), null, 'was slow, and the lane is full');
  t.not(lane.admit('c', 'csv'), null, 'was not slow');
  first.leave();
  first.leave();
  const again = lane.admit('b', 'csv');
  t.not(again, null);
  t.equal(lane.admit('a', 'csv'), null, 'the lane has one place');
  again?.leave();
  pass(3_700_000);
  t.not(lane.admit('a', 'csv'), null);
  t.not(lane.admit('b', 'csv'), null, 'both were forgotten');
});

t.test('leaves a place for Parquet to fast storages', t => {
  const { admit, pass, lane } = laneWithClock(2);
  const [first, second, third] = [admit('a', 'parquet'), admit('b', 'parquet'), admit('c')];
  for (const { pace } of [first, second, third]) pace.start();
  pass(121_000);
  t.equal(first.mayContinue(), true);
  t.equal(second.mayContinue(), false, 'the lane has one place for Parquet');
  second.leave();
  t.equal(lane.admit('b', 'parquet'), null);
  t.equal(third.mayContinue(), true, 'a slow CSV run takes the other place');
  first.leave();
  t.not(lane.admit('b', 'parquet'), null);
  t.end();
});

t.test('adds up the waits of attempts that fail before the grace ends', async t => {
  const { admit, lane, pass } = laneWithClock();
  for (const isSecond of [false, true]) {
    const attempt = admit('silent');
    const ended = attempt.pace.start();
    pass(90_000);
    ended(0);
    attempt.leave();
    if (!isSecond) pass(10_000);
  }
  const holder = admit('silent');
  t.equal(lane.admit('silent', 'csv'), null, 'the environment starts in the lane, which is full');
  holder.leave();
});

t.test('credits the bytes of accepted uploads, not those of refused ones', async t => {
  const { admit, pass } = laneWithClock();
  let status = 200;
  const endpoint = await fakeEndpoint((request, response) => {
    request.once('end', () => {
      pass(120_100);
      response.writeHead(status, { etag: '"e"' }).end();
    });
  });
  t.teardown(endpoint.close);
  const holder = admit('holder');
  holder.pace.start();
  pass(130_000);
  t.equal(holder.mayContinue(), true, 'takes the only place');
  for (const [answered, isFast] of [
    [200, true],
    [403, false],
    [500, false],
  ] as const) {
    status = answered;
    const attempt = admit(`status-${answered}`);
    const client = createS3Client(
      endpoint.destination,
      { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' },
      { allowlist: parseEndpointAllowlist(['127.0.0.1']) },
      { ...runTimeouts, maxAttempts: 1 },
      attempt.pace,
    );
    const Body = Buffer.alloc(mebibyte);
    await client.send(new PutObjectCommand({ Bucket: 'acme', Key: 'k', Body })).catch(() => {});
    client.destroy();
    t.equal(attempt.mayContinue(), isFast, `status ${answered}`);
  }
});
