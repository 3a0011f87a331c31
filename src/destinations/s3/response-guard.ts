import { UnexpectedAnswerError } from '../../outbound/http-exchange.ts';

/**
 * Limits of the XML that the AWS SDK parses. Its parser is synchronous, handles a DOCTYPE in
 * quadratic time and recurses for each level. Within these limits the longest response takes less
 * than 50 ms (test/faults/hostile-answers.test.ts).
 */
export interface AnswerLimits {
  readonly bytes: number;
  /** Maximum number of opening, closing and self-closing tags. */
  readonly tags: number;
}

/**
 * Limits of errors and of responses about one object. The longest known error has about 10 KiB and
 * 20 tags.
 */
export const usualAnswer: AnswerLimits = { bytes: 64 * 1024, tags: 400 };
/** Limits of a list of at most 30 uploads with 3 KiB and 40 tags each. */
export const uploadsAnswer: AnswerLimits = { bytes: 96 * 1024, tags: 1_200 };

/** Maximum nesting. Responses of S3 have at most five levels. */
const maxDepth = 16;
/** Maximum size of a tag with its attributes. Tags of S3 have one or two XML namespaces. */
const maxTagBytes = 512;

/**
 * Checks XML before it is parsed.
 * @throws UnexpectedAnswerError if it declares a document type or an entity, or exceeds a limit
 */
export function requireSafeXml(body: Buffer, limits: AnswerLimits): void {
  if (body.length > limits.bytes) refuse(`more than ${limits.bytes} bytes`);
  requireFewMarks(body, limits);
  let tags = 0;
  let depth = 0;
  for (let start = body.indexOf('<'); start !== -1; start = body.indexOf('<', start + 1)) {
    tags += 1;
    if (tags > limits.tags) refuse(`more than ${limits.tags} tags`);
    const opening = body.toString('latin1', start, start + 9);
    if (opening.startsWith('<!--')) start = endOf(body, '-->', start + 4);
    else if (opening === '<![CDATA[') start = endOf(body, ']]>', start + 9);
    else if (opening.startsWith('<!')) refuse('a document type or a declaration');
    else if (opening.startsWith('<?')) start = endOf(body, '?>', start + 2);
    else if (opening.startsWith('</')) depth -= 1;
    else {
      const end = endOf(body, '>', start);
      if (end - start > maxTagBytes) refuse(`a tag of more than ${maxTagBytes} bytes`);
      // A ">" inside of a quoted value would hide the end of the tag.
      if (!hasClosedQuotes(body.subarray(start, end))) refuse('an attribute with ">"');
      if (body[end - 1] !== slash) depth += 1;
      start = end;
    }
    if (depth > maxDepth) refuse(`more than ${maxDepth} levels`);
  }
}

/**
 * Counts every "<" and refuses every declaration, also in comments and sections. The parser of the
 * SDK takes `<!-->` and `<?>` as complete, so it may see what a scanner would skip.
 */
function requireFewMarks(body: Buffer, limits: AnswerLimits): void {
  let marks = 0;
  for (let start = body.indexOf('<'); start !== -1; start = body.indexOf('<', start + 1)) {
    marks += 1;
    if (marks > limits.tags) refuse(`more than ${limits.tags} tags`);
    const opening = body.toString('latin1', start, start + 9);
    if (opening.startsWith('<!') && !opening.startsWith('<!--') && opening !== '<![CDATA[') {
      refuse('a document type or a declaration');
    }
  }
}

const slash = '/'.charCodeAt(0);
const doubleQuote = '"'.charCodeAt(0);
const singleQuote = "'".charCodeAt(0);

function endOf(body: Buffer, mark: string, from: number): number {
  const index = body.indexOf(mark, from);
  return index === -1 ? refuse(`no "${mark}"`) : index;
}

function hasClosedQuotes(tag: Buffer): boolean {
  let open: number | null = null;
  for (const byte of tag) {
    if (open === byte) open = null;
    else if (open === null && (byte === doubleQuote || byte === singleQuote)) open = byte;
  }
  return open === null;
}

function refuse(what: string): never {
  throw new UnexpectedAnswerError(`the answer has ${what}`);
}
