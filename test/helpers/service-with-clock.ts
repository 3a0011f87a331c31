/**
 * Starts the service as src/main.ts does, with another clock: the real one plus the milliseconds in
 * `TEST_CLOCK_FILE`. If `TEST_AWS_ADDRESS` is set, connections to AWS go to that address.
 */
import fs from 'node:fs';
import https from 'node:https';
import { serve } from '../../src/serve.ts';
import { lookupOf } from './lookup-of.ts';

const awsAddress = process.env['TEST_AWS_ADDRESS'];
if (awsAddress !== undefined) {
  const lookup = lookupOf(awsAddress);
  const { createConnection } = https.Agent.prototype;
  https.Agent.prototype.createConnection = function (options, callback) {
    const isAws = options.host?.endsWith('.amazonaws.com');
    return createConnection.call(this, isAws ? { ...options, lookup } : options, callback);
  };
}

const file = process.env['TEST_CLOCK_FILE'] ?? '';

await serve(process.env, () => new Date(Date.now() + Number(fs.readFileSync(file, 'utf8'))));
