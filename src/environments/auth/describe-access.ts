import { plans, requiredPlan } from '../plans.ts';
import type { Access } from './access.ts';

/** Returns who may call a route, in words for its description in `openapi.yaml`. */
export function describeAccess(access: Access): string {
  if (access === 'public') return 'Needs no `Authorization` header.';
  if (access === 'operator') return operatorOnly;
  const { environment, feature } = access;
  const plan =
    feature === undefined
      ? ''
      : ` Plan: ${anyOf(plans.slice(plans.indexOf(requiredPlan(feature))))}.`;
  return `${describeRight(environment)}${plan}`;
}

const operatorOnly = 'Only with the operator token.';

function describeRight(right: Exclude<Access, string>['environment']): string {
  if (right === 'operator') return operatorOnly;
  if (right === 'member') return 'With any token of the environment.';
  return `Scope: ${anyOf([right].flat())}.`;
}

function anyOf(names: readonly string[]): string {
  return names.map(name => `\`${name}\``).join(' or ');
}
