import tls from 'node:tls';

/**
 * Returns the TLS option that trusts one more certificate authority than the public ones; without
 * one, an empty object.
 * @param extraCa PEM
 */
export function trustedCa(extraCa: string | undefined): { readonly ca?: string[] } {
  return extraCa === undefined ? {} : { ca: [...tls.rootCertificates, extraCa] };
}
