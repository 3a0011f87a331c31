import t from 'tap';
import { type Scope, scopesAllow } from '../../src/environments/auth/scopes.ts';
import { planAllows, requiredPlan } from '../../src/environments/plans.ts';

const allowed = [
  ['free', 'manual_export', false],
  ['free', 'automatic_export', false],
  ['pro', 'manual_export', true],
  ['pro', 'automatic_export', false],
  ['enterprise', 'manual_export', true],
  ['enterprise', 'automatic_export', true],
] as const;

for (const [plan, feature, expected] of allowed) {
  t.equal(planAllows(plan, feature), expected, `${plan} has ${expected ? '' : 'no '}${feature}`);
}
t.equal(requiredPlan('manual_export'), 'pro');
t.equal(requiredPlan('automatic_export'), 'enterprise');

const read = 'exports:read';
const write = 'exports:write';
const load = 'snapshots:write';
const scopeTable: readonly [granted: readonly Scope[], needed: Scope, expected: boolean][] = [
  [[], read, false],
  [[read], read, true],
  [[write], read, true],
  [[load], read, false],
  [[read], write, false],
  [[write], write, true],
  [[load], write, false],
  [[read, write], load, false],
  [[load], load, true],
  [[load, read], read, true],
];

for (const [granted, needed, expected] of scopeTable) {
  t.equal(
    scopesAllow(granted, needed),
    expected,
    `${granted.join(' + ') || 'nothing'} for ${needed}`,
  );
}
