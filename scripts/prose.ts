/**
 * Rules of plain English for comments, test names and documents. `npm run check` applies them
 * through `check-prose.ts`.
 */
import jsTokens from 'js-tokens';

/**
 * Words and phrases that are hard to understand: an unnamed actor, an archaic word or a figure of
 * speech. A few are fine where they fit; many of them make a text hard to read.
 */
const markers = [
  ...['whoever', 'whatever', 'nobody', 'somebody', 'anybody', 'anew', 'lent', 'hears?', 'heard'],
  ...['(is|are|was|were|be|been) told', 'told of', 'tells of', 'knows of', 'besides', 'mended'],
  ...['let(s|ting)? go', 'hand(s|ed|ing)? back', '(break|breaks|broke|broken|breaking) off'],
  ...['does without', 'do without', '(makes?|made) up for', 'at fault', 'for ever', 'all the same'],
  ...[
    'in its place',
    'but for',
    'of (its|their|our|his) own',
    'of (ours|theirs|mine)',
    'by itself',
  ],
  ...['is away', 'are away', 'so long', 'comes? again', 'never comes', 'has gone', 'is gone'],
  ...['who', '(?<=[.;:] )what', 'what is', 'what was'],
  ...['what has', 'what comes', 'what they', 'what it', 'stands? (in|for|there|alone|once|by)'],
  ...['take(s|n)? for', 'took for', 'looks? at', 'goes on', 'go on', 'went on', 'under way'],
  ...['at the very', 'may as well', 'as well as it', 'in vain', 'out of the way'],
];

const markerPattern = new RegExp(`\\b(?:${markers.join('|')})\\b`, 'gi');

/** A doc comment that starts like this depends on a sentence that the reader does not see. */
const dependentStart = /^(?:Of|As|Also|Then|So|The same)\b/;

export interface Prose {
  /** Line of the file, from 1. */
  readonly line: number;
  readonly text: string;
  /** True if the text is a JSDoc comment. */
  readonly isDoc: boolean;
}

/** Returns the comments of a TypeScript file. Directives of tools are left out. */
export function commentsOf(source: string): Prose[] {
  const found: Prose[] = [];
  let line = 1;
  for (const token of jsTokens(source)) {
    if (token.type === 'MultiLineComment' || token.type === 'SingleLineComment') {
      const isDoc = token.value.startsWith('/**');
      const text = token.value
        .replace(/^\/\*+|\*\/$|^\/\//g, '')
        .replaceAll(/^\s*\* ?/gm, '')
        .trim();
      if (!/^(?:biome-ignore|@ts-)/.test(text)) found.push({ line, text, isDoc });
    }
    line += token.value.split('\n').length - 1;
  }
  return found;
}

/** Returns the paragraphs of a Markdown file without code blocks. */
export function paragraphsOf(markdown: string): Prose[] {
  const withoutCode = markdown.replaceAll(/^```[\s\S]*?^```/gm, code =>
    code.replaceAll(/[^\n]/g, ''),
  );
  return withoutCode.split('\n').flatMap((text, index) => {
    const prose = text.replaceAll(/`[^`]*`/g, 'code').trim();
    return prose === '' ? [] : [{ line: index + 1, text: prose, isDoc: false }];
  });
}

export interface ProseReport {
  readonly words: number;
  readonly markers: readonly { readonly line: number; readonly marker: string }[];
  /** Lines of doc comments that do not stand alone. */
  readonly dependentStarts: readonly number[];
}

/** Counts words and markers. */
export function inspectProse(prose: readonly Prose[]): ProseReport {
  return {
    words: prose.reduce(
      (sum, { text }) => sum + (text.match(/[\p{L}\p{N}'’-]+/gu)?.length ?? 0),
      0,
    ),
    markers: prose.flatMap(({ line, text }) =>
      [...text.replaceAll(/\s+/g, ' ').matchAll(markerPattern)].map(([marker]) => ({
        line,
        marker,
      })),
    ),
    dependentStarts: prose
      .filter(({ isDoc, text }) => isDoc && dependentStart.test(text))
      .map(({ line }) => line),
  };
}
