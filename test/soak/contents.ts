import { type AdoptionRow, adoptionRow, exportPart, ingestBody } from '../helpers/adoption-rows.ts';

/**
 * Rows of one snapshot version. All contents differ, so a file identifies the contents that it
 * shows.
 */
export interface Content {
  readonly id: number;
  readonly rowCount: number;
  /** Bytes of each name. Long names give files of several parts with few rows. */
  readonly nameBytes: number;
}

export function rowsOf({ id, rowCount, nameBytes }: Content): AdoptionRow[] {
  const name = `${'ñ'.repeat(nameBytes / 2)} of ${id}`;
  return Array.from({ length: rowCount }, (_, index) =>
    adoptionRow({
      companyId: `c${index}`,
      companyName: index % 7 === 0 ? null : name,
      featureId: `f${id}`,
      featureName: index % 5 === 0 ? '' : 'Export, "plain"',
      starsState: ((index % 4) + 1) as 1 | 2 | 3 | 4,
      satisfaction: index % 3 === 0 ? null : 4,
      feedbackCount: id + index,
      segmentNames: index % 2 === 0 ? [] : ['All', 'Paying, EU'],
      segmentIds: index % 2 === 0 ? [] : ['s1', 's2'],
    }),
  );
}

export const bodyOf = (content: Content): string => ingestBody(rowsOf(content));

const recent = new Map<string, string>();
const keptTexts = 200;

/** Returns the section of a file that shows the content on the date. */
export function partOf(content: Content, date: string): string {
  const key = `${content.id} ${date}`;
  const text = recent.get(key) ?? exportPart(rowsOf(content), date);
  recent.delete(key);
  recent.set(key, text);
  const [oldest] = recent.keys();
  if (recent.size > keptTexts && oldest !== undefined) recent.delete(oldest);
  return text;
}
