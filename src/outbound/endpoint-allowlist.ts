/**
 * Decides which custom endpoints are allowed: public and https, or listed in
 * `S3_ENDPOINT_ALLOWLIST`. The rule is about one address. The endpoint guard applies it to each
 * address that it dials.
 */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { ConfigError } from '../config/config.ts';

export interface EndpointAllowlist {
  /**
   * Hosts in the form of WHATWG URL, without brackets and trailing dot. `host:port` allows only one
   * port.
   */
  readonly hosts: ReadonlySet<string>;
  readonly networks: readonly [ipaddr.IPv4 | ipaddr.IPv6, number][];
}

export interface Target {
  readonly host: string;
  readonly port: number;
  readonly scheme: 'http' | 'https';
}

/**
 * Parses the allow-list.
 * @throws ConfigError that names `S3_ENDPOINT_ALLOWLIST` if an entry is neither host, `host:port`
 * nor CIDR
 */
export function parseEndpointAllowlist(entries: readonly string[]): EndpointAllowlist {
  const hosts = new Set<string>();
  const networks: [ipaddr.IPv4 | ipaddr.IPv6, number][] = [];
  for (const entry of entries) {
    if (ipaddr.isValidCIDR(entry)) networks.push(ipaddr.parseCIDR(entry));
    else hosts.add(parseHostEntry(entry));
  }
  return { hosts, networks };
}

/** Returns true if the target may be reached at `address`. */
export function isAllowed(allowlist: EndpointAllowlist, target: Target, address: string): boolean {
  return (
    isHostListed(allowlist, target) ||
    isNetworkListed(allowlist, address) ||
    (target.scheme === 'https' && isPublicAddress(address))
  );
}

/** Returns false if no address could make the target allowed. No name is resolved. */
export function mayBeAllowed(allowlist: EndpointAllowlist, target: Target): boolean {
  const host = bareHost(target.host);
  if (isIP(host) !== 0) return isAllowed(allowlist, target, host);
  return (
    target.scheme === 'https' || isHostListed(allowlist, target) || allowlist.networks.length > 0
  );
}

/**
 * Returns true for addresses on the public internet, false for loopback, private, special and
 * tunnelled ones.
 */
export function isPublicAddress(address: string): boolean {
  if (isIP(address) === 0) return false;
  const parsed = ipaddr.parse(address);
  if (parsed.range() !== 'unicast') return false;
  // Only 2000::/3 of IPv6 is allocated. The rest includes IPv4-compatible and translated addresses.
  if (parsed.kind() === 'ipv6') return parsed.match(globalUnicast);
  return address !== azurePlatformAddress;
}

const globalUnicast = ipaddr.parseCIDR('2000::/3') as [ipaddr.IPv6, number];
/**
 * Azure's DHCP, DNS and metadata address. It looks public but is reachable only from virtual
 * machines.
 */
const azurePlatformAddress = '168.63.129.16';

/**
 * Returns true if the allow-list names the host, or the host and port, independent of its address.
 */
export function isHostListed({ hosts }: EndpointAllowlist, { host, port }: Target): boolean {
  const bare = bareHost(host);
  return hosts.has(bare) || hosts.has(withPort(bare, port));
}

function isNetworkListed({ networks }: EndpointAllowlist, address: string): boolean {
  if (isIP(address) === 0) return false;
  // `process` converts ::ffff:10.0.0.1 to 10.0.0.1, so that one CIDR covers both.
  const parsed = ipaddr.process(address);
  return networks.some(network => parsed.kind() === network[0].kind() && parsed.match(network));
}

function parseHostEntry(entry: string): string {
  const bracketed = isIP(entry) === 6 ? `[${entry}]` : entry;
  const [, host, port] = /^(\[[^\]]+\]|[^:/?#@*\s\\[\]]+)(?::(\d{1,5}))?$/.exec(bracketed) ?? [];
  // Parsing as a https URL normalizes the host.
  if (
    host === undefined ||
    !URL.canParse(`https://${host}`) ||
    (port !== undefined && !isPort(port))
  ) {
    throw new ConfigError(
      `S3_ENDPOINT_ALLOWLIST must list hosts, host:port or CIDRs, separated by commas; "${entry}" is none of them`,
    );
  }
  const bare = bareHost(new URL(`https://${host}`).hostname);
  return port === undefined ? bare : withPort(bare, Number(port));
}

function isPort(text: string): boolean {
  return Number(text) >= 1 && Number(text) <= 65_535;
}

/** Returns a host in lower case without brackets and trailing dot. */
export function bareHost(host: string): string {
  return host.toLowerCase().replace(/^\[|\]$|\.$/g, '');
}

function withPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
