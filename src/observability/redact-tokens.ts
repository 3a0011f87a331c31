/** Longest path segment that is logged. No id is longer, and every issued token is longer. */
const longestId = 64;

/** Longest query value that is logged. Every operator token is longer. */
const longestQueryValue = 31;

const redacted = '[redacted]';

/**
 * Removes everything from a URL that may be a token. A mistyped URL may hold a token in any place,
 * so tokens are recognized by length alone.
 */
export function redactUrl(url: string): string {
  const queryStart = url.indexOf('?');
  const path = queryStart === -1 ? url : url.slice(0, queryStart);
  const query = queryStart === -1 ? '' : url.slice(queryStart);
  return redactLonger(path, longestId) + redactLonger(query, longestQueryValue);
}

/** Removes JWTs and API keys from a text, such as an error message that quotes a URL. */
export function redactTokens(text: string): string {
  return text
    .replace(/(?<![\w-])[\w-]{16,}(?:\.|%2e)[\w-]{16,}(?:\.|%2e)[\w-]{16,}/gi, redacted)
    .replace(/whx_[0-9a-f]{16}_[0-9a-f]{64}/gi, redacted);
}

function redactLonger(text: string, limit: number): string {
  return text.replace(/[^/?&=#]+/g, piece => (piece.length > limit ? redacted : piece));
}
