import fs from 'node:fs';
import path from 'node:path';
import puppeteer, { type Page } from 'puppeteer-core';
import t, { type Test } from 'tap';
import { startIdentityProvider } from '../../demo/identity-provider.ts';
import { buildClient, settingsPage } from '../../demo/settings-page.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { credentialsOf, startExportApp, startExportWorker } from '../helpers/export-configs.ts';
import { needsProgram } from '../helpers/programs.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { freshPrefix, needsS3, s3Server } from '../helpers/s3.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** The settings page in a real browser, as a user of a customer sees it. */

const browserName = 'chromium';
const needs = { skip: needsS3.skip ?? needsProgram(browserName).skip };
const environmentId = 'acme';

t.test('the settings page', needs, async t => {
  const { page, folder, faults, app } = await openPage(t);
  /** Returns the text of an element, or an empty string if there is none. */
  const text = async (selector: string) =>
    (await page.$$eval(selector, ([node]) => node?.textContent?.trim())) ?? '';
  const shows = (selector: string, pattern: RegExp) =>
    waitFor(`${selector}: ${pattern}`, async () => pattern.test(await text(selector)));
  const runEnded = () =>
    waitFor('the end of the run', async () => {
      const { json } = await app.call(`/v1/environments/${environmentId}/export-configs`);
      const { id } = json.items[0];
      const runs = await app.call(`/v1/environments/${environmentId}/export-configs/${id}/runs`);
      return runs.json.items[0]?.finishedAt != null;
    });
  const type = async (name: string, value: string) => {
    await page.$eval(`[name="${name}"]`, node => {
      node.setAttribute('value', '');
      Object.assign(node, { value: '' });
    });
    await page.type(`[name="${name}"]`, value);
  };

  await t.test('downloads a file with progress', async t => {
    t.match(await text('#size'), /^2,000 rows, [\d.]+ (KB|MB) as CSV$/);
    await page.evaluate(`
      const bar = document.querySelector('#download-progress');
      globalThis.seen = [];
      const observer = new MutationObserver(() => seen.push(bar.value));
      observer.observe(bar, { attributeFilter: ['value'] });
    `);
    await page.click('#download button');
    await shows('#download-state', /^acme_today_2026-03-02\.csv: 2,000 rows$/);
    const file = path.join(folder, 'acme_today_2026-03-02.csv');
    await waitFor('the file', () => fs.existsSync(file));
    const whole = (await app.download(environmentId, 'today')).body;
    await waitFor('the content of the file', () => fs.readFileSync(file).equals(whole));
    const seen = await page.evaluate('seen');
    t.equal((seen as number[]).at(-1), whole.length, 'the bar reaches the end');
  });

  await t.test('shows an invalid field and a wrong key at the field', async t => {
    await type('bucket', ' ');
    await page.click('#config button');
    await shows('[data-field="bucket"] .field-error', /./);
    await type('bucket', s3Server().bucket);
    await type('key', freshPrefix());
    await type('accessKeyId', 'WRONGKEY');
    await type('secretAccessKey', credentialsOf('full').secretAccessKey);
    await page.click('#config button');
    await shows('[data-field="accessKeyId"] .field-error', /access key.*\..+/i);
    t.equal(await text('#save-state'), 'Not saved');
    const focused = await page.evaluate('document.activeElement.name');
    t.equal(focused, 'accessKeyId', 'the field has the focus');
    t.equal(await page.$('[data-field="bucket"] .field-error'), null);
    t.ok(await page.$eval('#status', node => node.hasAttribute('hidden')), 'nothing is saved');
  });

  await t.test('saves, runs now and shows the status', async t => {
    const { accessKeyId, secretAccessKey } = credentialsOf('full');
    await type('accessKeyId', accessKeyId);
    await type('secretAccessKey', secretAccessKey);
    await page.click('#config button');
    await shows('#save-state', /^Saved$/);
    t.equal(await text('#last-export'), 'Never');
    t.equal(await text('#next-export'), 'Mar 3, 2026, 1:00 AM', 'local time');
    // The run ends while the page reads status and history.
    await page.setRequestInterception(true);
    page.on('request', async request => {
      if (request.method() === 'GET' && request.url().includes('/runs?')) await runEnded();
      await request.continue();
    });
    await page.click('#run-now');
    await shows('#run-state', /^Started for 2026-03-02$/);
    await shows('#result', /^Successful$/);
    await shows('#runs', /2026-03-02Successful2,000/);
    t.equal(await text('#run-error'), '');
  });

  await t.test('turns a config off by keyboard', async t => {
    await page.focus('#enabled');
    await page.keyboard.press('Space');
    await shows('#next-export', /^Turned off$/);
    const { json } = await app.call(`/v1/environments/${environmentId}/export-configs`);
    t.equal(json.items[0].enabled, false);
  });

  await t.test('shows the fields of each provider', async t => {
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
  });

  await t.test('names every control and fits on a phone', async t => {
    await page.setViewport({ width: 360, height: 740 });
    t.equal(await page.evaluate('document.documentElement.scrollWidth'), 360);
    const unnamed = (await namesOf(page)).filter(({ name }) => name === '');
    t.same(unnamed, []);
  });

  t.same(faults, [], 'the page has no errors');
});

async function openPage(t: Test) {
  const folder = t.testdir();
  const clientFolder = path.join(folder, 'client');
  await buildClient(clientFolder, new AbortController().signal);
  const provider = await startIdentityProvider();
  t.teardown(provider.stop);
  const { endpoint, bucket, region } = s3Server();
  const createSession = async () => ({
    environmentId,
    token: await provider.createToken({
      environments: environmentId,
      scope: 'exports:read exports:write',
    }),
    defaults: { provider: 'custom', endpoint, bucket, region },
  });
  const app = await startExportApp(t, {
    env: provider.env,
    plugin: settingsPage(clientFolder, createSession),
  });
  await app.putEnvironment(environmentId);
  const snapshot = { environmentId, date: '2026-03-02', rows: 2_000 };
  await writeDenseSnapshot(app.database.pool, snapshot);
  await renderAll(app);
  startExportWorker(t, app);

  const browser = await puppeteer.launch({
    executablePath: `/usr/bin/${browserName}`,
    // Root has no sandbox. All traffic stays on this machine.
    args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
    env: { ...process.env, LANG: 'en_US.UTF-8' },
  });
  t.teardown(() => browser.close());
  const page = await browser.newPage();
  const session = await page.createCDPSession();
  await session.send('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: folder });
  await page.emulateTimezone('Europe/Berlin');
  const faults: string[] = [];
  page.on('pageerror', error => faults.push(String(error)));
  page.on('console', message => {
    // Chromium reports each answer that is an error.
    const isExpected = /status of 4(00|22)/.test(message.text());
    if (message.type() === 'error' && !isExpected) faults.push(message.text());
  });
  await page.goto(`${app.origin}/demo`);
  await page.waitForSelector('html[data-ready]');
  return { page, folder, faults, app };
}

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
