import fs from 'node:fs';
import t from 'tap';
import { initialState, isFinal, runStates, transitions } from '../../src/export-runs/run-states.ts';

t.test('shows the same transitions in the diagram as in the table', async t => {
  const page = fs.readFileSync('docs/architecture.md', 'utf8');
  const [, diagram = ''] = /stateDiagram-v2\n(.*?)```/s.exec(page) ?? [];
  const shown = [...diagram.matchAll(/^ *(\S+) --> ([^\s:]+)/gm)].map(([, from, to]) => [from, to]);
  const allowed = Object.values(transitions).flatMap(({ from, to }) =>
    from.filter(state => state !== to).map(state => [state, to]),
  );
  const ends = runStates.filter(isFinal).map(state => [state, '[*]']);
  const key = (edges: (string | undefined)[][]) => [...new Set(edges.map(String))].sort();
  t.strictSame(key(shown), key([['[*]', initialState], ...allowed, ...ends]));
});

t.test('has no transition from a final state', async t => {
  for (const { from } of Object.values(transitions)) t.notOk(from.some(isFinal));
});
