import { parseArgs } from 'node:util';
import { ApiError, createClient, type Plan } from '@warehouse-export/client';
import { estimateStory } from './estimate-story.ts';
import { type LoadProgress, loadStory } from './load-story.ts';
import { storyUpTo } from './story.ts';

const usage = `Fills an environment with lifelike data through the public API of a running service.

  npm run seed -- --companies 1000 --features 20 --days 60 --environment seeded

  --companies <n>      companies at the end of the story (default 200)
  --features <n>       features at the end of the story (default 20)
  --days <n>           closed days up to yesterday; today's snapshot is added (default 200)
  --environment <id>   created if it does not exist, else keeps its name and plan;
                       its snapshots of these days are replaced (required)
  --plan <plan>        plan of a new environment: free, pro or enterprise (default enterprise)
  --url <origin>       where the service runs (default http://127.0.0.1:3000)
  --token <token>      the operator token (default: the variable ADMIN_TOKEN)
  --seed <n>           start of the random numbers (default 1)
  --help               this text

All dates are UTC. The same numbers give the same data, byte for byte, except for today's snapshot.`;

/** Error of a malformed option. The message names the option. */
class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Time of the last progress line outside a terminal. */
let shownMs = Number.NEGATIVE_INFINITY;

const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());

try {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') console.log(usage);
  else await seed(options);
} catch (error) {
  if (stop.signal.aborted)
    console.error('\nStopped. Each snapshot was either sent completely or left unchanged.');
  else if (error instanceof UsageError)
    console.error(`${error.message}\nTry: npm run seed -- --help`);
  else if (error instanceof ApiError) console.error(explain(error));
  else console.error(error);
  process.exitCode = 1;
}

interface SeedOptions {
  readonly url: string;
  readonly token: string;
  readonly environment: string;
  readonly plan: Plan;
  readonly seed: number;
  readonly companies: number;
  readonly features: number;
  readonly days: number;
}

function explain({ message, problem }: ApiError): string {
  const advice: Partial<Record<typeof problem.code, string>> = {
    no_answer: 'Is the service running there?',
    unauthenticated: 'Give the operator token with --token, or in the variable ADMIN_TOKEN.',
    insufficient_scope: 'This token lacks the permission: use the operator token.',
    conflict: 'Another request is sending the same snapshot: wait until it has ended.',
  };
  return [message, advice[problem.code]].filter(part => part !== undefined).join('. ');
}

async function seed(options: SeedOptions): Promise<void> {
  const now = new Date();
  const story = storyUpTo(now, options);
  const estimate = estimateStory(story, now);
  const megabytes = Math.ceil(estimate.csvBytes / 1e6);
  console.log(
    `Sending about ${estimate.rows.toLocaleString('en')} rows in ${options.days + 1} snapshots to ` +
      `${options.environment}, ${megabytes.toLocaleString('en')} MB as CSV. Ctrl-C stops.`,
  );
  const started = performance.now();
  const { rows, snapshots } = await loadStory({
    client: createClient({ baseUrl: options.url, token: options.token }),
    environment: { id: options.environment, name: options.environment, plan: options.plan },
    story,
    now,
    signal: stop.signal,
    onProgress: progress => showProgress(progress, performance.now() - started),
  });
  const seconds = (performance.now() - started) / 1000;
  console.log(
    `${process.stdout.isTTY ? '\n' : ''}${rows.toLocaleString('en')} rows in ${snapshots} snapshots of ` +
      `${options.environment}, ${seconds.toFixed(1)} s (${Math.round(rows / seconds).toLocaleString('en')} rows/s)`,
  );
}

/** Shows progress: a line that is rewritten in a terminal, else a new line every five seconds. */
function showProgress(
  { date, snapshots, totalSnapshots, rows }: LoadProgress,
  elapsedMs: number,
): void {
  const counts = `${snapshots}/${totalSnapshots} snapshots  ${rows.toLocaleString('en')} rows`;
  const line = `${date}  ${counts}  ${Math.round(elapsedMs / 1000)} s`;
  if (process.stdout.isTTY) process.stdout.write(`\r${line} `);
  else if (elapsedMs - shownMs >= 5_000 || snapshots === totalSnapshots) {
    shownMs = elapsedMs;
    console.log(line);
  }
}

function readOptions(args: string[]): SeedOptions | 'help' {
  const values = parse(args);
  if (values.help === true) return 'help';
  const { environment, plan, url } = values;
  if (environment === undefined) throw new UsageError('--environment is required');
  if (!/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/.test(environment)) {
    throw new UsageError(
      '--environment must be 1 to 64 letters, digits, _ or -, and start with a letter or digit',
    );
  }
  if (plan !== 'free' && plan !== 'pro' && plan !== 'enterprise') {
    throw new UsageError('--plan must be free, pro or enterprise');
  }
  if (!URL.canParse(url) || !/^https?:/.test(url)) {
    throw new UsageError('--url must be an origin such as http://127.0.0.1:3000');
  }
  const token = values.token ?? process.env['ADMIN_TOKEN'] ?? '';
  if (token === '')
    throw new UsageError('--token or the variable ADMIN_TOKEN must contain the operator token');
  return {
    environment,
    plan,
    url,
    token,
    seed: integer('seed', values.seed, 0, 2 ** 31),
    companies: integer('companies', values.companies, 1, 10_000_000),
    features: integer('features', values.features, 1, 100_000),
    days: integer('days', values.days, 1, 3650),
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        companies: { type: 'string', default: '200' },
        features: { type: 'string', default: '20' },
        days: { type: 'string', default: '200' },
        environment: { type: 'string' },
        plan: { type: 'string', default: 'enterprise' },
        url: { type: 'string', default: 'http://127.0.0.1:3000' },
        token: { type: 'string' },
        seed: { type: 'string', default: '1' },
        help: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function integer(name: string, value: string, min: number, max: number): number {
  const number = /^\d+$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= min && number <= max))
    throw new UsageError(`--${name} must be a whole number from ${min} to ${max}`);
  return number;
}
