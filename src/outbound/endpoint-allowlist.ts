/**
 * What a custom endpoint may be: public and https, or named by the operator in `S3_ENDPOINT_ALLOWLIST`. Pure: the rule
 * is about one address; the endpoint guard applies it to each that is dialled.
 */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { ConfigError } from '../config/config.ts';

export interface EndpointAllowlist {
  /** Hosts as WHATWG URL writes them, without brackets or a last dot; `host:port` when one port alone is open. */
  readonly hosts: ReadonlySet<string>;
  readonly networks: readonly [ipaddr.IPv4 | ipaddr.IPv6, number][];
}

export interface Target {
  readonly host: string;
  readonly port: number;
  readonly scheme: 'http' | 'https';
}

/** @throws ConfigError that names `S3_ENDPOINT_ALLOWLIST` when an entry is neither host, `host:port` nor CIDR. */
export function parseEndpointAllowlist(entries: readonly string[]): EndpointAllowlist {
  const hosts = new Set<string>();
  const networks: [ipaddr.IPv4 | ipaddr.IPv6, number][] = [];
  for (const entry of entries) {
    if (ipaddr.isValidCIDR(entry)) networks.push(ipaddr.parseCIDR(entry));
    else hosts.add(parseHostEntry(entry));
  }
  return { hosts, networks };
}

/** The whole rule. `address` is what will be dialled for the target's host. */
export function isAllowed(allowlist: EndpointAllowlist, target: Target, address: string): boolean {
  return (
    isHostListed(allowlist, target) ||
    isNetworkListed(allowlist, address) ||
    (target.scheme === 'https' && isPublicAddress(address))
  );
}

/** Whether there is an address with which the rule would allow the target: false is certain before any name is asked. */
export function mayBeAllowed(allowlist: EndpointAllowlist, target: Target): boolean {
  const host = bareHost(target.host);
  if (isIP(host) !== 0) return isAllowed(allowlist, target, host);
  return (
    target.scheme === 'https' || isHostListed(allowlist, target) || allowlist.networks.length > 0
  );
}

/** Addresses that anyone may reach over the internet; nothing of loopback, private, special or tunnelled kinds. */
export function isPublicAddress(address: string): boolean {
  if (isIP(address) === 0) return false;
  const parsed = ipaddr.parse(address);
  if (parsed.range() !== 'unicast') return false;
  // Of IPv6 only 2000::/3 is given out: the rest hides IPv4-compatible, translated and future kinds.
  if (parsed.kind() === 'ipv6') return parsed.match(globalUnicast);
  return address !== azurePlatformAddress;
}

const globalUnicast = ipaddr.parseCIDR('2000::/3') as [ipaddr.IPv6, number];
/** Azure's DHCP, DNS and metadata, reached from virtual machines alone, though the address looks public. */
const azurePlatformAddress = '168.63.129.16';

/** Named by host or by host and port, whatever its address. */
export function isHostListed({ hosts }: EndpointAllowlist, { host, port }: Target): boolean {
  const bare = bareHost(host);
  return hosts.has(bare) || hosts.has(withPort(bare, port));
}

function isNetworkListed({ networks }: EndpointAllowlist, address: string): boolean {
  if (isIP(address) === 0) return false;
  // `process` takes ::ffff:10.0.0.1 for 10.0.0.1, so that one CIDR opens both.
  const parsed = ipaddr.process(address);
  return networks.some(network => parsed.kind() === network[0].kind() && parsed.match(network));
}

function parseHostEntry(entry: string): string {
  const bracketed = isIP(entry) === 6 ? `[${entry}]` : entry;
  const [, host, port] = /^(\[[^\]]+\]|[^:/?#@*\s\\[\]]+)(?::(\d{1,5}))?$/.exec(bracketed) ?? [];
  // Any scheme with rules for hosts normalises them: https here.
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

/** Without brackets or a last dot, in lower case. */
export function bareHost(host: string): string {
  return host.toLowerCase().replace(/^\[|\]$|\.$/g, '');
}

function withPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
