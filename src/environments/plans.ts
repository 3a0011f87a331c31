/**
 * Rules for what each plan includes. The billing backend keeps the plan of an environment up to
 * date.
 */

export const plans = ['free', 'pro', 'enterprise'] as const;
export type Plan = (typeof plans)[number];

export type Feature = 'manual_export' | 'automatic_export';

const requiredPlans: Readonly<Record<Feature, Plan>> = {
  manual_export: 'pro',
  automatic_export: 'enterprise',
};

/** Returns the lowest plan that includes the feature. */
export function requiredPlan(feature: Feature): Plan {
  return requiredPlans[feature];
}

export function planAllows(plan: Plan, feature: Feature): boolean {
  return plans.indexOf(plan) >= plans.indexOf(requiredPlan(feature));
}
