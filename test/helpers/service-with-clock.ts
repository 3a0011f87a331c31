/** The service as src/main.ts starts it, but for its clock: the real one plus what stands in `TEST_CLOCK_FILE`, in ms. */
import fs from 'node:fs';
import { serve } from '../../src/serve.ts';

const file = process.env['TEST_CLOCK_FILE'] ?? '';

await serve(process.env, () => new Date(Date.now() + Number(fs.readFileSync(file, 'utf8'))));
