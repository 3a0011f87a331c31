import { uniform } from './random.ts';
import { dayMs, type Story } from './story.ts';

export interface Feature {
  readonly index: number;
  readonly id: string;
  readonly name: string;
  /** Milliseconds since the epoch. */
  readonly releasedAt: number;
  /** 0 to 1: how much companies like the feature. */
  readonly appeal: number;
}

// biome-ignore format: a list of words
const names = [
  'Dashboards', 'Export', 'Import, bulk', 'Search "as you type"', 'Alerts', 'Single sign-on', 'Audit log',
  'API keys', 'Webhooks', 'Comments', 'Roles', 'Übersetzungen', 'Forecasts', 'Mobile app',
  'Slack integration', 'Templates', 'Custom fields', 'Dark mode', 'Scheduled reports', 'Segments',
] as const;

/**
 * Returns all features of a story. One in five is released during the story, the others before it.
 */
export function listFeatures(story: Story): Feature[] {
  const start = Date.parse(story.startDate);
  return Array.from({ length: story.features }, (_, index) => {
    const edition = Math.floor(index / names.length);
    const isNew = index % 5 === 4;
    return {
      index,
      id: `f${String(index + 1).padStart(3, '0')}`,
      name: `${names[index % names.length]}${edition === 0 ? '' : ` ${edition + 1}`}`,
      releasedAt: isNew
        ? start + Math.floor(uniform(story.seed, index, 40) * 0.8 * story.days * dayMs)
        : start - 600 * dayMs,
      appeal: 0.15 + 0.8 * uniform(story.seed, index, 41),
    };
  });
}
