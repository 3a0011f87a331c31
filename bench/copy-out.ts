/**
 * Writes a COPY to stdout. Replaces psql where it is not installed.
 *
 *   node bench/copy-out.ts <database url> <file with the statement>
 */
import fs from 'node:fs';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { to as copyTo } from 'pg-copy-streams';

const [connectionString = '', file = ''] = process.argv.slice(2);
const client = new pg.Client({ connectionString });
await client.connect();
await client.query(`set time zone 'UTC'`);
await pipeline(client.query(copyTo(fs.readFileSync(file, 'utf8'))), process.stdout, { end: false });
await client.end();
