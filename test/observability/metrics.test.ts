import fs from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { parse } from 'yaml';
import { selectQueueState } from '../../src/export-runs/select-queue-state.sql.ts';
import { createPrometheusMetrics } from '../../src/observability/prometheus.ts';
import { adoptionRow, exportHeader, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { open } from '../helpers/http-client.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { difference, readMetrics } from '../helpers/read-metrics.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';
import { parseQuery, type Selector } from './parse-query.ts';

const app = await startTestApp(t);
const { pool } = app.database;
const { text: metricsAtStart } = await app.call('/metrics', { token: null });
for (const id of ['small', 'wide', 'acme', 'scraped']) await app.putEnvironment(id, 'pro');
await writeWideSnapshot(pool, {
  environmentId: 'wide',
  date: '2026-03-01',
  rows: 600,
  nameBytes: 20_000,
});
// The route keeps its text for a second.
const scrape = async () => readMetrics(await app.dependencies.metrics.render());
const authorization = { authorization: `Bearer ${testAdminToken}` };
const idle = () =>
  waitFor('the end of the downloads', () => app.dependencies.downloadLimit.active === 0);

t.test('counts a complete download, before and after rendering', async t => {
  const rows = [adoptionRow(), adoptionRow({ companyId: 'c2' })];
  await app.ingest('small', '2026-03-01', ingestBody(rows));
  for (const isRendered of [false, true]) {
    if (isRendered) await renderAll(app);
    const before = await scrape();
    const { body } = await app.download('small', 'today');
    await idle();
    const more = difference(before, await scrape());
    t.equal(more('whx_downloads_total{outcome="complete"}'), 1);
    t.equal(more('whx_download_rows_total'), 2);
    const bytes = more('whx_download_bytes_total');
    t.ok(
      bytes > body.length && bytes < body.length + 1_000,
      `the file of ${body.length} and headers: ${bytes}`,
    );
    t.equal(more('whx_download_duration_seconds_count{outcome="complete"}'), 1);
  }
});

t.test('counts a rendering and its bytes', async t => {
  await renderAll(app);
  await app.ingest('small', '2026-03-01', ingestBody([adoptionRow()]));
  const before = await scrape();
  await renderAll(app);
  await renderAll(app);
  const more = difference(before, await scrape());
  t.equal(more('whx_renderings_total{outcome="rendered"}'), 1);
  t.equal(more('whx_rendering_duration_seconds_count{outcome="rendered"}'), 1);
  const { body } = await app.download('small', 'today');
  t.equal(more('whx_rendered_bytes_total'), body.length - exportHeader.length);
});

t.test('counts the snapshots that wait to be rendered', async t => {
  const { db, now } = app.dependencies;
  const waiting = async () => {
    // The service keeps the state of its queue for 15 s.
    const metrics = createPrometheusMetrics({
      ...app.dependencies,
      runErrorCodes: [],
      queueState: () => selectQueueState(db, now()),
    });
    return readMetrics(await metrics.render()).get('whx_renderings_waiting') ?? Number.NaN;
  };
  const before = await waiting();
  await app.ingest('acme', '2026-02-02', ingestBody([adoptionRow()]));
  t.equal(await waiting(), before + 1);
});

t.test('counts a download whose reader disconnects', async t => {
  const before = await scrape();
  const url = `${app.origin}/v1/environments/wide/exports/today.csv`;
  const response = await open(url, { headers: authorization });
  response.destroy();
  await idle();
  const more = difference(before, await scrape());
  t.equal(more('whx_downloads_total{outcome="reader_gone"}'), 1);
  t.equal(more('whx_download_rows_total'), 0);
});

t.test('counts downloads that fail before and after their first byte', async t => {
  const before = await scrape();
  await pool.query('alter table snapshots rename to hidden');
  t.equal((await app.download('small', 'today')).status, 503);
  await pool.query('alter table hidden rename to snapshots');

  await app.putEnvironment('broken', 'pro');
  t.teardown(() => app.call('/v1/environments/broken', { method: 'DELETE' }));
  await writeWideSnapshot(pool, {
    environmentId: 'broken',
    date: '2026-03-01',
    rows: 100,
    nameBytes: 20_000,
  });
  await pool.query(`update snapshots set row_count = 99 where environment_id = 'broken'`);
  await t.rejects(app.download('broken', 'today'), 'the connection breaks');
  await idle();
  t.equal(difference(before, await scrape())('whx_downloads_total{outcome="failed"}'), 2);
});

t.test('counts ingests by their outcome', async t => {
  const csv = ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]);
  const url = `${app.origin}/v1/environments/acme/snapshots/2026-02-01`;
  const cutOff = async () => {
    const connection = await connectRaw(app.port);
    connection.socket.write(
      `PUT ${new URL(url).pathname} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n` +
        `Authorization: Bearer ${testAdminToken}\r\nContent-Length: 1000\r\n\r\n${csv.slice(0, 100)}`,
    );
    await waitFor('the start of the ingest', () => app.dependencies.ingestLimit.active === 1);
    connection.socket.destroy();
  };
  for (const [outcome, act, rows] of [
    ['complete', () => app.ingest('acme', '2026-02-01', csv), 2],
    ['refused', () => app.ingest('acme', '2026-02-01', `${csv}bad\n`), 0],
    [
      'refused',
      () => app.ingest('acme', '2026-02-01', gzipSync(csv), { 'content-encoding': 'br' }),
      0,
    ],
    [
      'complete',
      () => app.ingest('acme', '2026-02-01', gzipSync(csv), { 'content-encoding': 'gzip' }),
      2,
    ],
    ['sender_gone', cutOff, 0],
  ] as const) {
    const before = await scrape();
    await act();
    await waitFor('the end of the ingest', () => app.dependencies.ingestLimit.active === 0);
    const more = difference(before, await scrape());
    t.equal(more(`whx_ingests_total{outcome="${outcome}"}`), 1, outcome);
    t.equal(more('whx_ingest_rows_total'), rows, outcome);
    if (outcome === 'complete')
      t.equal(more('whx_ingest_bytes_total'), Buffer.byteLength(csv), 'unpacked');
  }
});

t.test('has every series from the start', async t => {
  for (const outcome of ['complete', 'reader_gone', 'stalled', 'failed']) {
    t.match(metricsAtStart, new RegExp(`^whx_downloads_total\\{outcome="${outcome}"\\} 0$`, 'm'));
  }
  t.match(metricsAtStart, /^whx_run_errors_total\{code="secret_key_mismatch"\} 0$/m);
  t.match(metricsAtStart, /^whx_database_up 1$/m);
  t.match(metricsAtStart, /^nodejs_eventloop_lag_p99_seconds \d/m);
});

t.test('the metrics name no customer', async t => {
  await app.download('small', 'today');
  t.notMatch(await app.dependencies.metrics.render(), /small|wide|broken|acme|scraped/);
});

t.test('serves only health and metrics routes in a worker process', async t => {
  const worker = await startApp(t, {
    databaseUrl: app.database.url,
    env: { PROCESS_ROLE: 'worker' },
  });
  t.equal((await worker.call('/health/live', { token: null })).status, 200);
  t.equal((await worker.call('/health/ready', { token: null })).status, 200);
  t.equal((await worker.call('/metrics', { token: null })).status, 200);
  t.equal((await worker.call('/v1/environments')).status, 404);
});

/** Tests that alerts and dashboard use only series that a real scrape has. */
t.test('serves dashboards and alerts', async t => {
  const docs = path.join(import.meta.dirname, '../../docs');
  const read = (name: string) => fs.readFileSync(path.join(docs, name), 'utf8');

  interface Asked {
    readonly where: string;
    readonly text: string;
    /** Text that shows labels of the result. */
    readonly shown: string;
  }

  interface Rule {
    readonly alert: string;
    readonly expr: string;
    readonly annotations: { readonly summary: string };
  }

  interface Panel {
    readonly title: string;
    readonly targets?: readonly {
      expr: string;
      legendFormat: string;
      datasource: { uid: string };
    }[];
  }

  const rules: Rule[] = parse(read('monitoring/alerts.yaml')).groups.flatMap(
    (group: { rules: Rule[] }) => group.rules,
  );
  const dashboard = JSON.parse(read('monitoring/grafana-dashboard.json'));
  const panels: Panel[] = dashboard.panels;

  /** Replaces Grafana's variables by values. */
  const fillIn = (expr: string) =>
    expr.replaceAll('$__rate_interval', '5m').replaceAll('$job', '.+');
  const asked: Asked[] = [
    ...rules.map(({ alert, expr, annotations }) => ({
      where: alert,
      text: expr,
      shown: annotations.summary,
    })),
    ...panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr, legendFormat }) => ({
        where: title,
        text: fillIn(expr),
        shown: legendFormat,
      })),
    ),
  ];

  /** Labels that Prometheus adds to everything that it scrapes. It also creates the metric `up`. */
  const addedLabels = { job: 'warehouse-export', instance: '127.0.0.1:3000' };
  const madeByPrometheus = new Map([['up', [{}]]]);

  /** Returns the label sets of each metric. */
  function seriesOf(text: string): Map<string, Record<string, string>[]> {
    const found = new Map<string, Record<string, string>[]>(madeByPrometheus);
    for (const series of readMetrics(text).keys()) {
      const [, name = '', inside = ''] = /^(\w+)(?:\{(.*)\})?$/.exec(series) ?? [];
      const labels = [...inside.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, value]) => [
        label,
        value,
      ]);
      found.set(name, [...(found.get(name) ?? []), Object.fromEntries(labels)]);
    }
    return found;
  }

  const isMatch = (labels: Record<string, string>, { matchers }: Selector) =>
    matchers.every(({ label, operator, value }) => {
      const has = { ...addedLabels, ...labels }[label] ?? '';
      const isSame = operator.includes('~')
        ? new RegExp(`^(?:${value})$`).test(has)
        : has === value;
      return operator.startsWith('!') ? !isSame : isSame;
    });

  async function scrapeOfEverything(): Promise<string> {
    await app.ingest('scraped', '2026-03-01', ingestBody([adoptionRow()]));
    await app.download('scraped', 'today');
    // Creates a series with a 5xx status.
    await pool.query('alter table snapshots rename to hidden');
    const failed = await app.download('scraped', 'today');
    if (failed.status < 500) throw new Error(failed.text);
    await pool.query('alter table hidden rename to snapshots');
    return await app.dependencies.metrics.render();
  }

  const series = seriesOf(await scrapeOfEverything());

  t.test('finds series and labels in a real scrape for every query', async t => {
    t.ok(asked.length > 50, `${asked.length} queries`);
    for (const { where, text, shown } of asked) {
      const { selectors, groupedBy } = parseQuery(text);
      t.ok(selectors.length > 0, `${where} selects a series`);
      const labels = new Set(Object.keys(addedLabels));
      for (const selector of selectors) {
        const matching = (series.get(selector.metric) ?? []).filter(found =>
          isMatch(found, selector),
        );
        t.ok(
          matching.length > 0,
          `${where}: ${selector.metric} ${JSON.stringify(selector.matchers)}`,
        );
        for (const label of matching.flatMap(Object.keys)) labels.add(label);
      }
      const shownLabels = [...shown.matchAll(/\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}/g)].map(
        ([, label]) => label,
      );
      for (const label of [...groupedBy, ...shownLabels])
        t.ok(labels.has(label ?? ''), `${where}: ${label}`);
    }
  });

  t.test('uses every metric of the service', async t => {
    const used = new Set(
      asked.flatMap(({ text }) => parseQuery(text).selectors.map(({ metric }) => metric)),
    );
    const family = (name: string) => name.replace(/_(bucket|count|sum)$/, '');
    const usedFamilies = new Set([...used].map(family));
    const ours = new Set([...series.keys()].filter(name => name.startsWith('whx_')).map(family));
    t.strictSame(
      [...ours].filter(name => !usedFamilies.has(name)),
      [],
    );
  });

  t.test('names metrics by the rules of Prometheus', async t => {
    for (const name of series.keys()) {
      if (!name.startsWith('whx_')) continue;
      t.match(name, /^[a-z][a-z0-9_]*$/);
      t.notMatch(name, /_(ms|milliseconds|kb|mb|minutes)(_|$)/, 'base units');
      t.notMatch(JSON.stringify(series.get(name)), /scraped/, 'no name of a customer');
    }
  });

  t.test('explains each alert and has a dashboard that can be imported', async t => {
    const guide = read('monitoring.md');
    for (const { alert } of rules) t.ok(guide.includes(`### ${alert}\n`), alert);
    t.equal(new Set(rules.map(({ alert }) => alert)).size, rules.length);
    t.equal(dashboard.templating.list[0].type, 'datasource');
    for (const { title, targets = [] } of panels) {
      for (const { datasource } of targets) t.match(datasource.uid, /^\$\{datasource\}$/, title);
    }
  });

  t.test('refuses an invalid query', async t => {
    t.throws(() => parseQuery('sum(rate(whx_downloads_total[5m])'));
    t.throws(() => parseQuery('sum by outcome (whx_downloads_total)'));
  });
});
