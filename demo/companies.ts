import { exponential, pick, uniform } from './random.ts';
import { dayMs, type Story } from './story.ts';

export interface Company {
  readonly index: number;
  readonly id: string;
  readonly name: string | null;
  /** Milliseconds since the epoch. */
  readonly arrivedAt: number;
  /** Instant of the last visit of the company; infinite if it never leaves. */
  readonly leftAt: number;
  /** 0 to 1: how readily the company tries new features. */
  readonly appetite: number;
}

/** Segments of a company at one instant. Both lists have the same order. */
export interface Segments {
  readonly names: readonly string[];
  readonly ids: readonly string[];
}

/**
 * Share of the companies that are customers when the story starts. The others arrive evenly over
 * its days.
 */
const presentAtStart = 0.6;

// biome-ignore format: a list of words
const firstWords = [
  'Acme', 'Nordwind', 'Blue Heron', 'Kōbō', 'Łódź', 'Río Claro', 'Zürich', 'Ember', 'Quill', 'Tamarind',
  'Ørsted', 'Papaya', 'Granite', 'Lighthouse', 'Мир', 'Sextant', 'Juniper', '東京', 'Cobalt',
  'Wren & Daughters',
] as const;
// biome-ignore format: a list of words
const secondWords = [
  'Labs', 'Foods', 'Logistics', 'Health', 'Robotics', 'Media', 'Bank', 'Textiles', 'Energy', 'Games',
  'Optics', 'Cloud',
] as const;
const endings = [
  '',
  '',
  ' GmbH',
  ' Ltd',
  ', Inc.',
  ', S.A.',
  ' & Söhne',
  ' "Europe"',
  ' 株式会社',
  ' 🚀',
] as const;

/** Returns the companies that have arrived by `instant`, in the order of arrival. */
export function* companiesAt(story: Story, instant: number): Generator<Company> {
  for (let index = 0; index < story.companies; index++) {
    const company = describeCompany(story, index);
    if (company.arrivedAt <= instant) yield company;
    // Companies arrive in the order of their index, so the first later arrival ends the search.
    else if (index >= story.companies * presentAtStart) return;
  }
}

function describeCompany(story: Story, index: number): Company {
  const { seed } = story;
  const start = Date.parse(story.startDate);
  const settled = Math.ceil(story.companies * presentAtStart);
  const arrivedAt =
    index < settled
      ? start - Math.ceil(uniform(seed, index, 1) * 500 * dayMs)
      : start +
        Math.floor(
          ((index - settled + uniform(seed, index, 1)) / (story.companies - settled)) *
            story.days *
            dayMs,
        );
  const leaves = uniform(seed, index, 2) < 0.15;
  return {
    index,
    id: `c${String(index + 1).padStart(6, '0')}`,
    name: nameCompany(seed, index),
    arrivedAt,
    leftAt: leaves
      ? arrivedAt + Math.floor((20 + exponential(200, seed, index, 3)) * dayMs)
      : Number.POSITIVE_INFINITY,
    appetite: uniform(seed, index, 4),
  };
}

/**
 * Returns the name of a company. A few companies have null or an empty name: the files distinguish
 * the two.
 */
function nameCompany(seed: number, index: number): string | null {
  const luck = uniform(seed, index, 5);
  if (luck < 0.03) return null;
  if (luck < 0.04) return '';
  const number = index < 1000 ? '' : ` ${index + 1}`;
  return `${pick(firstWords, seed, index, 6)} ${pick(secondWords, seed, index, 7)}${number}${pick(endings, seed, index, 8)}`;
}

/**
 * Returns the segments of a company. It starts on trial, then pays and may grow large. It is at
 * risk after it has left.
 */
export function segmentsAt(story: Story, company: Company, instant: number): Segments {
  const draw = (salt: number) => uniform(story.seed, company.index, salt);
  const age = (instant - company.arrivedAt) / dayMs;
  if (draw(20) < 0.02) return { names: [], ids: [] };
  const memberships: [boolean, string, string][] = [
    [true, 'seg-all', 'All'],
    [age < 30, 'seg-trial', 'Trial'],
    [age >= 30 && draw(21) < 0.4, 'seg-paying-eu', 'Paying, EU'],
    [age >= 30 && draw(21) >= 0.4 && draw(21) < 0.7, 'seg-paying-us', 'Paying, US'],
    [draw(22) < 0.1, 'seg-early', '"Early" adopters'],
    [age >= 90 && draw(23) < 0.25, 'seg-large', 'Großkunden'],
    [draw(24) < 0.08, 'seg-jp', '日本'],
    [instant - company.leftAt > 7 * dayMs, 'seg-risk', 'At risk'],
  ];
  const own = memberships.filter(([belongs]) => belongs);
  return { names: own.map(([, , name]) => name), ids: own.map(([, id]) => id) };
}
