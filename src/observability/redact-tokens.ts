/** Longest path segment that is logged. No id is longer. Links are longer. */
const longestId = 64;

/** Longest query value that is logged. Every operator token is longer. */
const longestQueryValue = 31;

const redacted = '[redacted]';

/** Longest URL that is logged, in characters. Callers may send 16 KiB. */
const longestUrl = 2_000;

/** API keys, also truncated ones, and the secret of an API key alone. */
const apiKeyShape = /whx_[0-9a-f]{8}|[0-9a-f]{64}/i;

/** Most layers of percent-encoding that are decoded to find a token. */
const maxLayers = 3;

/**
 * Removes everything from a URL that may be a token. A mistyped URL may hold a token in any place.
 * API keys are recognized by their form and other issued tokens by their length.
 *
 * @param secrets texts to remove wherever they are, percent-encoded or not
 */
export function redactUrl(url: string, secrets: readonly string[] = []): string {
  const shown = redactLiterally(url, secrets);
  // Unusual encoding, such as of letters, leaves no text to replace.
  const isHidden = layersOf(shown).some(text => secrets.some(secret => text.includes(secret)));
  if (isHidden) return redacted;
  const queryStart = shown.indexOf('?');
  const path = queryStart === -1 ? shown : shown.slice(0, queryStart);
  const query = queryStart === -1 ? '' : shown.slice(queryStart);
  const whole = redactPieces(path, longestId) + redactPieces(query, longestQueryValue);
  return whole.length > longestUrl ? `${whole.slice(0, longestUrl)}…` : whole;
}

/** Removes JWTs and API keys from a text, such as an error message that quotes a URL. */
export function redactTokens(text: string): string {
  return redactApiKeys(
    text.replace(/(?<![\w-])[\w-]{16,}(?:\.|%2e)[\w-]{16,}(?:\.|%2e)[\w-]{16,}/gi, redacted),
  );
}

/**
 * Removes secrets and API keys from a line of JSON, wherever they are.
 * @param secrets texts to remove
 */
export function redactLine(line: string, secrets: readonly string[]): string {
  return redactApiKeys(redactLiterally(line, secrets));
}

function redactApiKeys(text: string): string {
  return text.replace(/whx(?:_|%5f)[0-9a-f]{8}[\w%]*/gi, redacted);
}

function redactLiterally(text: string, secrets: readonly string[]): string {
  let shown = text;
  for (const secret of secrets) {
    // A secret may have quotes and backslashes, which JSON escapes.
    for (const form of [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)]) {
      shown = shown.replaceAll(form, redacted);
    }
  }
  return shown;
}

function redactPieces(text: string, limit: number): string {
  return text.replace(/[^/?&=#]+/g, piece =>
    piece.length > limit || layersOf(piece).some(text => apiKeyShape.test(text)) ? redacted : piece,
  );
}

/** Returns the text with each layer of percent-encoding removed. Bytes become Latin-1. */
function layersOf(text: string): string[] {
  const layers = [text];
  for (let last = text; layers.length <= maxLayers && last.includes('%'); ) {
    last = last.replace(/%([0-9a-f]{2})/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    layers.push(last);
  }
  return layers;
}
