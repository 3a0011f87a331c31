import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { parse } from 'yaml';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { readMetrics } from '../helpers/read-metrics.ts';
import { parseQuery, type Selector } from './parse-query.ts';

/** Tests that alerts and dashboard use only series that a real scrape has. */

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
  readonly targets?: readonly { expr: string; legendFormat: string; datasource: { uid: string } }[];
}

const rules: Rule[] = parse(read('monitoring/alerts.yaml')).groups.flatMap(
  (group: { rules: Rule[] }) => group.rules,
);
const dashboard = JSON.parse(read('monitoring/grafana-dashboard.json'));
const panels: Panel[] = dashboard.panels;

/** Replaces Grafana's variables by values. */
const fillIn = (expr: string) => expr.replaceAll('$__rate_interval', '5m').replaceAll('$job', '.+');
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
    const isSame = operator.includes('~') ? new RegExp(`^(?:${value})$`).test(has) : has === value;
    return operator.startsWith('!') ? !isSame : isSame;
  });

async function scrapeOfEverything(): Promise<string> {
  const app = await startTestApp(t);
  await app.putEnvironment('acme', 'pro');
  await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
  await app.download('acme', 'today');
  // Creates a series with a 5xx status.
  await app.database.pool.query('alter table snapshots rename to hidden');
  const failed = await app.download('acme', 'today');
  if (failed.status < 500) throw new Error(failed.text);
  await app.database.pool.query('alter table hidden rename to snapshots');
  return (await app.call('/metrics', { token: null })).text;
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
    t.notMatch(JSON.stringify(series.get(name)), /acme/, 'no name of a customer');
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
