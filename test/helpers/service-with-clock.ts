/**
 * Starts the service as src/main.ts does, with another clock: the real one plus the milliseconds in
 * `TEST_CLOCK_FILE`.
 */
import fs from 'node:fs';
import { serve } from '../../src/serve.ts';

const file = process.env['TEST_CLOCK_FILE'] ?? '';

await serve(process.env, () => new Date(Date.now() + Number(fs.readFileSync(file, 'utf8'))));
