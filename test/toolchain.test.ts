import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { createTapReport } from './helpers/tap-report.ts';
import { waitFor } from './helpers/wait-for.ts';

const tap = `TAP version 14
# Subtest: test/good.test.ts
    # Subtest: adds
        ok 1 - one
        ok 2 - bucket # SKIP no server
        1..2
    ok 1 - adds # time=1ms
    1..1
ok 1 - test/good.test.ts # time=2ms

# Subtest: test/bad.test.ts
    ok 1 - fine
    not ok 2 - broken
      ---
      diff: |
        # { total: 99, pass: 99 }
        ok 3 - not a test # SKIP never
      ...
    1..2
not ok 2 - test/bad.test.ts # time=3ms
  ---
  exitCode: 1
  ...

1..2
# { total: 4, pass: 2, fail: 1, skip: 1 }
# time=5ms
`;

t.test('reports the counts of tap, the skipped checks and the failed checks', async t => {
  // Whole and byte by byte, as pipes may deliver it.
  for (const chunks of [[tap], [...tap]]) {
    let printed = '';
    const report = createTapReport(text => {
      printed += text;
    });
    chunks.forEach(report.write);
    t.strictSame(report.totals(), { passed: 2, failed: 1, skipped: 1 });
    t.strictSame(report.skipped, ['test/good.test.ts > bucket: no server']);
    t.match(printed, /^ok {6}test\/good\.test\.ts/m);
    t.match(printed, /^ {4}not ok 2 - broken/m);
    t.notMatch(printed, /ok 1 - one|ok 1 - fine/);
  }
});

t.test('reports no totals for a run without a summary of tap', async t => {
  const report = createTapReport(() => {});
  report.write('TAP version 14\n# Subtest: test/good.test.ts\n    ok 1 - one\n');
  t.equal(report.totals(), null);
});

t.test('finds every test file that a document names', async t => {
  const root = path.join(import.meta.dirname, '..');
  const missing: string[] = [];
  let names = 0;
  for (const file of fs.globSync(['*.md', 'docs/**/*.md', 'test/**/*.md'], { cwd: root })) {
    const text = fs.readFileSync(path.join(root, file), 'utf8');
    const paths = [...text.matchAll(/\btest\/[\w./-]*\w/g)].map(match => match[0]);
    // A row of the table of faults names files of `test/faults` in its last cell.
    const cells = file.endsWith('reliability.md') ? text.matchAll(/^\|.*\| (`.*`) \|$/gm) : [];
    for (const [, cell = ''] of cells) {
      for (const [, name] of cell.matchAll(/`([\w-]+)`/g)) paths.push(`test/faults/${name}`);
    }
    names += paths.length;
    const exists = (name: string) => fs.existsSync(path.join(root, name));
    const unknown = paths.filter(name => !exists(name) && !exists(`${name}.test.ts`));
    missing.push(...unknown.map(name => `${file}: ${name}`));
  }
  t.strictSame(missing, []);
  t.ok(names > 50, `${names} names`);
});

t.test('throws the last answer or error when a wait exceeds its limit', async t => {
  const limitMs = 50;
  let asked = 0;
  const count = () => ++asked;
  t.equal(await waitFor('three', count, { isWanted: answer => answer === 3 }), 3);
  await t.rejects(waitFor('zero', count, { isWanted: answer => answer === 0, limitMs }), {
    message: /^Waited 50 ms for zero, last answer: \d+$/,
  });
  const cause = new Error('broken');
  const fail = () => {
    asked += 1;
    throw cause;
  };
  asked = 0;
  await t.rejects(waitFor('an answer', fail, { limitMs }), cause);
  t.equal(asked, 1, 'an error ends the wait');
  await t.rejects(waitFor('an answer', fail, { limitMs, retriesErrors: true }), {
    message: 'Waited 50 ms for an answer, last error: Error: broken',
    cause,
  });
  t.ok(asked > 2, 'the wait continues after an error');
});
