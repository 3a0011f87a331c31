/**
 * Fails if comments or documents are hard to read. The limit is 4 marker words per 1,000 words in
 * each of the groups below. A doc comment that does not stand alone fails too. Prints the worst
 * files first.
 *
 *   node scripts/check-prose.ts [--list]
 *
 * `--list` prints every marker with its place.
 */
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { commentsOf, inspectProse, paragraphsOf } from './prose.ts';

const root = path.join(import.meta.dirname, '..');
const mostMarkersPer1000 = 4;

const groups: Readonly<Record<string, string>> = {
  src: 'src/**/*.ts',
  migrations: 'migrations/*.ts',
  'demo, dev, bench and scripts': '{demo,dev,bench,scripts}/**/*.ts',
  'client and examples': '{packages/*/*.ts,packages/*/src/*.ts,examples/**/*.{ts,js}}',
  test: 'test/**/*.ts',
  documents: '{*.md,docs/**/*.md,packages/*/*.md,examples/**/*.md}',
};

const list = process.argv.includes('--list');
let failed = false;
for (const [name, pattern] of Object.entries(groups)) {
  const files = globSync(pattern, { cwd: root }).sort();
  const reports = files.map(file => {
    const text = readFileSync(path.join(root, file), 'utf8');
    return { file, ...inspectProse(file.endsWith('.md') ? paragraphsOf(text) : commentsOf(text)) };
  });
  const words = reports.reduce((sum, report) => sum + report.words, 0);
  const count = reports.reduce((sum, report) => sum + report.markers.length, 0);
  const rate = words === 0 ? 0 : (count / words) * 1000;
  const starts = reports.flatMap(({ file, dependentStarts }) =>
    dependentStarts.map(line => `${file}:${line}: the comment does not stand alone`),
  );
  console.log(`${name}: ${count} marker words in ${words} words, ${rate.toFixed(1)} per 1,000`);
  for (const line of starts) console.log(`  ${line}`);
  const isOver = rate > mostMarkersPer1000;
  if (isOver && !list) {
    const worst = reports.toSorted((a, b) => b.markers.length - a.markers.length).slice(0, 15);
    for (const report of worst) console.log(`  ${report.markers.length}  ${report.file}`);
  }
  if (list) {
    for (const report of reports) {
      for (const { line, marker } of report.markers)
        console.log(`  ${report.file}:${line}: ${marker}`);
    }
  }
  failed ||= isOver || starts.length > 0;
}
process.exitCode = failed ? 1 : 0;
