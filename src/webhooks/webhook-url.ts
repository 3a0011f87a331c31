import { type EndpointAllowlist, mayBeAllowed } from '../outbound/endpoint-allowlist.ts';

export const maxUrlLength = 2_048;

type ParsedUrl =
  | { readonly ok: true; readonly url: string }
  | { readonly ok: false; readonly error: string };

/**
 * Parses the URL of a webhook. It must be https and public, unless the operator's
 * allow-list says otherwise. The endpoint guard checks the resolved address at every connect.
 */
export function parseWebhookUrl(text: string, allowlist: EndpointAllowlist): ParsedUrl {
  const error = (message: string): ParsedUrl => ({ ok: false, error: message });
  // The parser would drop or repair such characters. The stored URL must be the one that was sent.
  if (!/^https?:\/\/(?!\/)[^\s\\\p{Cc}]+$/iu.test(text) || !URL.canParse(text)) {
    return error('is not a URL like https://hooks.example.com/warehouse-export');
  }
  const url = new URL(text);
  if (text.includes('#')) return error('may not have a fragment');
  const hasUserInfo = url.username !== '' || url.password !== '';
  // The parser drops empty user info.
  if (hasUserInfo || /^[^/]+\/\/[^/?]*@/.test(text)) return error('may not have user info');
  if (url.href.length > maxUrlLength)
    return error(`may not be longer than ${maxUrlLength} characters`);
  const scheme = url.protocol === 'https:' ? 'https' : 'http';
  const port = url.port === '' ? { https: 443, http: 80 }[scheme] : Number(url.port);
  if (!mayBeAllowed(allowlist, { host: url.hostname, port, scheme })) {
    return error('must be https and public, unless the operator allows otherwise');
  }
  return { ok: true, url: url.href };
}
