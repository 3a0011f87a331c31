import type { Company } from './companies.ts';
import type { Feature } from './features.ts';
import { exponential, uniform } from './random.ts';
import { dayMs, type Story } from './story.ts';

/**
 * State of one feature at one company at one instant. Instants are milliseconds since the epoch.
 */
export interface Adoption {
  readonly firstSeen: number;
  readonly lastSeen: number;
  readonly firstUsed: number | null;
  readonly lastUsed: number | null;
  /** 1 is never, 2 tried, 3 retained, 4 churned. */
  readonly starsState: 1 | 2 | 3 | 4;
  /** 0 is never, 1 monthly, 2 weekly, 3 daily. */
  readonly frequency: 0 | 1 | 2 | 3;
  readonly satisfaction: number | null;
  readonly feedbackCount: number;
}

const periodDays = { 1: 30, 2: 7, 3: 1 } as const;

/** Time after the last use of a feature until a company counts as churned. */
const churnAfterMs = 28 * dayMs;

/**
 * Returns the state of a pair at `instant`. Computes the whole life of the pair from its random
 * numbers, then ignores everything after `instant`. Later events therefore do not change earlier
 * snapshots.
 *
 * @returns null if the company has not seen the feature yet
 */
export function adoptionAt(
  story: Story,
  company: Company,
  feature: Feature,
  instant: number,
): Adoption | null {
  const draw = (salt: number) => uniform(story.seed, company.index, feature.index, salt);
  const wait = (meanDays: number, salt: number) =>
    Math.floor(exponential(meanDays * dayMs, story.seed, company.index, feature.index, salt));
  const visitsUpTo = (first: number, period: number, end: number, salt: number) =>
    lastVisit(first, period, end, visit =>
      uniform(story.seed, company.index, feature.index, salt, visit),
    );

  const firstSeen = Math.max(company.arrivedAt, feature.releasedAt) + wait(4, 60);
  if (firstSeen > instant || firstSeen > company.leftAt) return null;

  const awake = Math.min(instant, company.leftAt);
  const lookedAt = visitsUpTo(firstSeen, (3 + draw(61) * 20) * dayMs, awake, 62);
  const firstUsed = firstSeen + wait(12, 63);
  const willTry = draw(64) < 0.25 + 0.75 * feature.appeal * (0.4 + 0.6 * company.appetite);
  if (!willTry || firstUsed > awake) {
    return {
      firstSeen,
      lastSeen: lookedAt,
      firstUsed: null,
      lastUsed: null,
      starsState: 1,
      frequency: 0,
      satisfaction: null,
      feedbackCount: 0,
    };
  }

  const willKeep = draw(65) < 0.3 + 0.6 * feature.appeal;
  const keptAt = firstUsed + 7 * dayMs + wait(10, 66);
  const tires = draw(67) < 0.25;
  const tiredAt = tires ? keptAt + wait(120, 68) : Number.POSITIVE_INFINITY;
  const stopsAt = Math.min(company.leftAt, willKeep ? tiredAt : firstUsed + wait(3, 69));
  const usedUntil = Math.min(instant, stopsAt);

  const taste = draw(70) < 0.35 ? 3 : draw(70) < 0.75 ? 2 : 1;
  const isKept = willKeep && keptAt <= usedUntil;
  const isChurned = isKept && instant - usedUntil > churnAfterMs;
  // A habit grows: in the first month the frequency is one level lower.
  const settled = instant - keptAt > 30 * dayMs ? taste : Math.max(1, taste - 1);
  const lastUsed = visitsUpTo(firstUsed, periodDays[taste] * dayMs, usedUntil, 71);

  return {
    firstSeen,
    lastSeen: Math.max(lookedAt, lastUsed),
    firstUsed,
    lastUsed,
    starsState: isChurned ? 4 : isKept ? 3 : 2,
    frequency: isChurned ? 0 : isKept ? (settled as 1 | 2 | 3) : 1,
    satisfaction:
      draw(72) < 0.45 && firstUsed + wait(15, 73) <= instant
        ? rate(feature.appeal, draw(74), isChurned)
        : null,
    feedbackCount: countFeedback((usedUntil - firstUsed) / dayMs, draw(75)),
  };
}

/**
 * Returns the latest visit up to `end`. There is about one visit every `period` ms from `first`.
 */
function lastVisit(
  first: number,
  period: number,
  end: number,
  jitter: (visit: number) => number,
): number {
  const at = (visit: number) =>
    visit <= 0
      ? first
      : Math.floor(first + period * (visit + 0.8 * jitter(visit) * Math.min(1, visit)));
  const last = Math.floor((end - first) / period);
  return at(last) <= end ? at(last) : at(last - 1);
}

function rate(appeal: number, luck: number, isChurned: boolean): number {
  const stars = 1 + Math.floor(5 * Math.min(0.999, 0.5 * appeal + 0.6 * luck));
  return isChurned ? Math.min(stars, 2) : stars;
}

/**
 * Counts feedback. Most companies give none, a few give some every other week. The number grows
 * with the days of use, so it never decreases.
 */
function countFeedback(daysOfUse: number, talkativeness: number): number {
  return talkativeness < 0.6 ? 0 : Math.floor(daysOfUse * (talkativeness - 0.6) * 0.2);
}
