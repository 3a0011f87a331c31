import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { waitFor } from './helpers/wait-for.ts';

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
