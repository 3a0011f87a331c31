import { parser } from '@prometheus-io/lezer-promql';

/** A series selector of a query: a metric and conditions for its labels. */
export interface Selector {
  readonly metric: string;
  readonly matchers: readonly {
    label: string;
    operator: '=' | '!=' | '=~' | '!~';
    value: string;
  }[];
}

export interface Query {
  readonly selectors: readonly Selector[];
  /** Labels that the query groups or matches by. */
  readonly groupedBy: readonly string[];
}

/**
 * Parses a query.
 *
 * @throws if the query is invalid
 */
export function parseQuery(text: string): Query {
  const selectors: { metric: string; matchers: Selector['matchers'][number][] }[] = [];
  const groupedBy: string[] = [];
  parser.parse(text).iterate({
    enter({ name, type, from, to, node }) {
      const part = text.slice(from, to);
      if (type.isError) throw new Error(`not a query, at ${from}: ${text}`);
      if (name === 'VectorSelector') selectors.push({ metric: '', matchers: [] });
      if (name === 'Identifier') Object.assign(selectors.at(-1) ?? {}, { metric: part });
      if (name === 'UnquotedLabelMatcher') {
        const [, label = '', operator = '=', quoted = ''] =
          /^(\w+)\s*(=~|!~|!=|=)\s*(.+)$/.exec(part) ?? [];
        selectors.at(-1)?.matchers.push({
          label,
          operator: operator as Selector['matchers'][number]['operator'],
          value: JSON.parse(quoted.replaceAll("'", '"')),
        });
      }
      if (name === 'LabelName' && node.parent?.name === 'GroupingLabels') groupedBy.push(part);
    },
  });
  return { selectors, groupedBy };
}
