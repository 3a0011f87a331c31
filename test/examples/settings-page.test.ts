import fs from 'node:fs';
import path from 'node:path';
import puppeteer, { type Page } from 'puppeteer-core';
import t, { type Test } from 'tap';
import { startIdentityProvider } from '../../demo/identity-provider.ts';
import { buildClient, settingsPage } from '../../demo/settings-page.ts';
import { enqueueDue } from '../../src/export-runs/enqueue-due.sql.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import {
  configBody,
  credentialsOf,
  makeConfig,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { needsProgram } from '../helpers/programs.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { freshPrefix, needsS3, s3Server } from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { waitFor } from '../helpers/wait-for.ts';

/**
 * The settings page in a real browser, as a user of a customer sees it. All tests share one
 * service, one worker and one browser. Each has its own environment and page.
 */

const browserName = 'chromium';
/** Time limit of the browser in ms, for its start and for each wait. */
const browserLimitMs = 100_000;
const needs = { skip: needsS3.skip ?? needsProgram(browserName).skip };
const snapshotDate = '2026-03-02';

const shared = needs.skip ? null : await startShared();

async function startShared() {
  const folder = t.testdir();
  const clientFolder = path.join(folder, 'client');
  await buildClient(clientFolder, new AbortController().signal);
  const provider = await startIdentityProvider();
  t.teardown(provider.stop);
  const { endpoint, bucket, region } = s3Server();
  /** Environment of the page that is open. */
  const session = { environmentId: '' };
  const createSession = async () => ({
    ...session,
    token: await provider.createToken({
      environments: session.environmentId,
      scope: 'exports:read exports:write',
    }),
    defaults: { provider: 'custom', endpoint, bucket, region },
  });
  const app = await startExportApp(t, {
    env: provider.env,
    plugin: settingsPage(clientFolder, createSession),
  });
  const worker = startExportWorker(t, app);
  const browser = await puppeteer.launch({
    executablePath: `/usr/bin/${browserName}`,
    timeout: browserLimitMs,
    // Root has no sandbox. All traffic stays on this machine.
    args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
    env: { ...process.env, LANG: 'en_US.UTF-8', TZ: 'Europe/Berlin' },
    downloadBehavior: { policy: 'allow', downloadPath: folder },
  });
  t.teardown(() => browser.close());
  return { folder, session, app, worker, browser };
}

interface Options {
  /** True if the environment has a snapshot of 2,000 rows. */
  readonly hasSnapshot?: boolean;
  /** Body of an export config that exists before the page is opened. */
  readonly config?: object;
  /** Script that runs before those of the page. */
  readonly script?: string;
}

let environments = 0;

/** Opens the page of a new environment. */
async function open(t: Test, faults: string[], options: Options) {
  if (shared === null) throw new Error('a test without `needs` asked for the page');
  const { folder, session, app, worker, browser } = shared;
  environments += 1;
  const environmentId = `acme-${environments}`;
  session.environmentId = environmentId;
  await app.putEnvironment(environmentId);
  if (options.hasSnapshot === true) {
    const snapshot = { environmentId, date: snapshotDate, rows: 2_000 };
    await writeDenseSnapshot(app.database.pool, snapshot);
    await renderAll(app);
  }
  if (options.config !== undefined) await makeConfig(app, environmentId, options.config);

  const page = await browser.newPage();
  t.teardown(() => page.close());
  page.setDefaultTimeout(browserLimitMs);
  page.on('pageerror', error => faults.push(String(error)));
  page.on('console', message => {
    // Chromium reports each answer that is an error.
    const isExpected = /status of 4(00|22)/.test(message.text());
    if (message.type() === 'error' && !isExpected) faults.push(message.text());
  });
  if (options.script !== undefined) await page.evaluateOnNewDocument(options.script);
  await page.goto(`${app.origin}/demo`);
  await page.waitForSelector('html[data-ready]');

  /** Returns the text of an element, or an empty string if there is none. */
  const text = async (selector: string) =>
    String(await page.evaluate(`document.querySelector('${selector}')?.textContent.trim() ?? ''`));
  const configs = `/v1/environments/${environmentId}/export-configs`;
  return {
    page,
    folder,
    app,
    worker,
    environmentId,
    text,
    shows: (selector: string, pattern: RegExp) =>
      waitFor(`${selector}: ${pattern}`, async () => pattern.test(await text(selector))),
    /** Fills a field. Typing takes 10 ms of CPU time for each character. */
    fill: (name: string, value: string) =>
      page.$eval(`[name="${name}"]`, (node, value) => Object.assign(node, { value }), value),
    /** Chooses the shown config again, which reads its status. */
    chooseAgain: () => page.$eval('#configs', node => node.dispatchEvent(new Event('change'))),
    readConfig: async () => (await app.call(configs)).json.items[0],
    /** Returns the newest run, or undefined. */
    readRun: async () => {
      const [{ id }] = (await app.call(configs)).json.items;
      return (await app.call(`${configs}/${id}/runs`)).json.items[0];
    },
  };
}

type OpenPage = (options?: Options) => ReturnType<typeof open>;

/** Returns the function of a test that fails if the page reports an error. */
function onPage(body: (t: Test, openPage: OpenPage) => Promise<void>) {
  return async (t: Test) => {
    const faults: string[] = [];
    await body(t, (options = {}) => open(t, faults, options));
    t.same(faults, [], 'the page has no errors');
  };
}

t.test(
  'the settings page downloads a file with progress',
  needs,
  onPage(async (t, openPage) => {
    const { page, folder, app, environmentId, text, shows } = await openPage({ hasSnapshot: true });
    t.match(await text('#size'), /^2,000 rows, [\d.]+ (KB|MB) as CSV$/);
    await page.evaluate(`
      const bar = document.querySelector('#download-progress');
      globalThis.seen = [];
      const observer = new MutationObserver(() => seen.push(bar.value));
      observer.observe(bar, { attributeFilter: ['value'] });
    `);
    await page.click('#download button');
    const name = `${environmentId}_today_${snapshotDate}.csv`;
    await shows('#download-state', new RegExp(`^${name}: 2,000 rows$`));
    const file = path.join(folder, name);
    await waitFor('the file', () => fs.existsSync(file));
    const whole = (await app.download(environmentId, 'today')).body;
    await waitFor('the content of the file', () => fs.readFileSync(file).equals(whole));
    const seen = await page.evaluate('seen');
    t.equal((seen as number[]).at(-1), whole.length, 'the bar reaches the end');
  }),
);

t.test(
  'the settings page shows an invalid field and a wrong key at the field, then saves and runs',
  needs,
  onPage(async (t, openPage) => {
    const { page, text, shows, fill, readRun } = await openPage({ hasSnapshot: true });
    const { accessKeyId, secretAccessKey } = credentialsOf('full');
    await fill('bucket', ' ');
    await page.click('#config button');
    await shows('[data-field="bucket"] .field-error', /./);
    await fill('bucket', s3Server().bucket);
    await fill('key', freshPrefix());
    await fill('accessKeyId', '');
    await page.type('[name="accessKeyId"]', 'WRONGKEY');
    await fill('secretAccessKey', secretAccessKey);
    await page.click('#config button');
    await shows('[data-field="accessKeyId"] .field-error', /access key.*\..+/i);
    t.equal(await text('#save-state'), 'Not saved');
    const focused = await page.evaluate('document.activeElement.name');
    t.equal(focused, 'accessKeyId', 'the field has the focus');
    t.equal(await page.$('[data-field="bucket"] .field-error'), null);
    t.ok(await page.$eval('#status', node => node.hasAttribute('hidden')), 'nothing is saved');

    await fill('accessKeyId', accessKeyId);
    await page.click('#config button');
    await shows('#save-state', /^Saved$/);
    t.equal(await text('#last-export'), 'Never');
    t.equal(await text('#next-export'), 'Mar 3, 2026, 1:00 AM', 'local time');
    // The run ends while the page reads status and history.
    await page.setRequestInterception(true);
    page.on('request', async request => {
      if (request.method() === 'GET' && request.url().includes('/runs?'))
        await waitFor('the end of the run', async () => (await readRun())?.finishedAt != null);
      await request.continue();
    });
    await page.click('#run-now');
    await shows('#run-state', /^Started for 2026-03-02$/);
    await shows('#result', /^Successful$/);
    await shows('#runs', /2026-03-02Successful2,000/);
    t.equal(await text('#run-error'), '');
    t.equal(await text('#turned-off'), '');
  }),
);

t.test(
  'the settings page shows the last error and the next attempt while the storage fails',
  needs,
  onPage(async (t, openPage) => {
    const proxy = await startS3Proxy();
    t.teardown(proxy.close);
    const { page, app, worker, text, shows, chooseAgain, readConfig } = await openPage({
      hasSnapshot: true,
      config: configBody('full', { endpoint: proxy.endpoint }),
    });
    proxy.decide(() => 'slow-down');
    await page.click('#run-now');
    worker.wake();
    await shows('#result', /^Waiting for the next attempt at \w+ \d+, \d+, \d+:\d+ [AP]M$/);
    // A run that is in progress has no error. The next attempt may begin at any time.
    await waitFor('the error of the run', async () => {
      const { error } = (await readConfig()).status.currentRun;
      return error !== null && (await text('#run-error')) === `${error.message} ${error.hint}`;
    });
    t.ok(await page.$eval('#run-now', node => node.hasAttribute('disabled')));
    proxy.decide(() => 'pass');
    await waitFor(
      'a successful run',
      async () => {
        await hastenRetries(app.database.pool, 'run-export');
        worker.wake();
        return (await readConfig()).status;
      },
      { isWanted: ({ status }) => status === 'successful' },
    );
    await chooseAgain();
    await shows('#result', /^Successful$/);
    t.equal(await text('#run-error'), '');
  }),
);

t.test(
  'the settings page shows that a run waits for its snapshot, and polls with one timer',
  needs,
  onPage(async (t, openPage) => {
    const { app, page, shows, chooseAgain } = await openPage({
      config: configBody(),
      script: `
        {
          globalThis.timers = new Set();
          globalThis.answered = 0;
          const { fetch, setTimeout, clearTimeout } = globalThis;
          globalThis.fetch = async (...args) => {
            const answer = await fetch(...args);
            if (/status$/.test(args[0].url ?? args[0])) globalThis.answered += 1;
            return answer;
          };
          globalThis.setTimeout = (action, ...rest) => {
            const timer = setTimeout(() => {
              timers.delete(timer);
              action();
            }, ...rest);
            timers.add(timer);
            return timer;
          };
          globalThis.clearTimeout = timer => {
            timers.delete(timer);
            clearTimeout(timer);
          };
        }`,
    });
    const { db, jobs } = app.dependencies;
    await enqueueDue(db, jobs, new Date('2026-03-03T00:00:30Z'));
    await chooseAgain();
    await shows('#result', /^Waiting for the data of 2026-03-02$/);
    for (let times = 0; times < 3; times += 1) await chooseAgain();
    await waitFor('the answers', async () => Number(await page.evaluate('answered')) >= 5);
    await page.waitForNetworkIdle({ idleTime: 100 });
    // The page may be polling, without a timer.
    const timers = await waitFor('a timer', () => page.evaluate('timers.size'));
    t.equal(timers, 1);
  }),
);

t.test(
  'the settings page turns a config off by keyboard and shows why the service turned it off',
  needs,
  onPage(async (t, openPage) => {
    const { page, app, text, shows, chooseAgain, environmentId, readConfig } = await openPage({
      config: configBody(),
    });
    await page.focus('#enabled');
    await page.keyboard.press('Space');
    await shows('#next-export', /^Turned off$/);
    t.equal((await readConfig()).enabled, false);
    t.equal(await text('#turned-off'), '');
    await app.database.pool.query(
      `update export_configs
       set turned_off_at = now(), turned_off_message = 'Ten slots failed.'
       where environment_id = $1`,
      [environmentId],
    );
    await chooseAgain();
    await shows('#turned-off', /^Ten slots failed\.$/);
  }),
);

t.test(
  'the settings page shows the named fields of each provider and fits on a phone',
  needs,
  onPage(async (t, openPage) => {
    const { page, text } = await openPage({ config: configBody() });
    const visible = (): Promise<string[]> =>
      page.$$eval('[data-field]:not([hidden])', labels =>
        labels.map(label => label.getAttribute('data-field') ?? ''),
      );
    const common = ['name', 'schedule', 'provider'];
    const keys = ['accessKeyId', 'secretAccessKey'];
    await page.select('[name="provider"]', 'gcp');
    t.same(await visible(), [...common, 'bucket', 'region', 'key', ...keys]);
    await page.select('[name="provider"]', 'aws');
    t.same(await visible(), [...common, 'bucketUrl', ...keys]);
    await page.click('[name="access"][value="role"]');
    t.same(await visible(), [...common, 'bucketUrl', 'roleArn']);
    t.match(await text('#external-id'), /^External ID/);
    await page.setViewport({ width: 360, height: 740 });
    t.equal(await page.evaluate('document.documentElement.scrollWidth'), 360);
    const unnamed = (await namesOf(page)).filter(({ name }) => name === '');
    t.same(unnamed, []);
  }),
);

/** Returns role and accessible name of each control. */
async function namesOf(page: Page): Promise<{ role: string; name: string }[]> {
  const found: { role: string; name: string }[] = [];
  const visit = (node: { role: string; name?: string; children?: object[] } | null): void => {
    if (node === null) return;
    if (/^(textbox|combobox|button|switch|radio)$/.test(node.role))
      found.push({ role: node.role, name: node.name ?? '' });
    for (const child of node.children ?? []) visit(child as NonNullable<typeof node>);
  };
  visit((await page.accessibility.snapshot()) as Parameters<typeof visit>[0]);
  return found;
}
