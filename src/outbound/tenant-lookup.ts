import { Resolver } from 'node:dns/promises';
import type { LookupFunction } from 'node:net';

export interface TenantLookupOptions {
  /** Name servers as `address` or `address:port`. Default: those of the machine. */
  readonly servers?: readonly string[];
  /** Limit of one lookup in milliseconds. Default: 4,000, less than the limit for a connection. */
  readonly limitMs?: number;
}

/** Time in milliseconds to wait for the second address family after one has answered. */
const otherFamilyMs = 300;
/** Maximum number of addresses to use. A name may have thousands, and the rest is ignored. */
const maxAddresses = 16;

/**
 * Creates a lookup for host names that tenants choose. It queries the name servers through c-ares,
 * which needs no thread. `dns.lookup` occupies a thread of libuv until the name servers answer,
 * regardless of the caller's limit: 40 slow names delayed the database and the readiness for
 * minutes.
 *
 * It follows CNAME records. It reads neither `/etc/hosts` nor the search list of `resolv.conf`,
 * because tenants have no use for local names. `dns.lookup` resolves hosts of the allow-list (see
 * `endpoint-guard.ts`). Errors have the codes of `dns.lookup`: `ENOTFOUND`, or `EAI_AGAIN` if the
 * name servers did not answer.
 */
export function createTenantLookup({
  servers,
  limitMs = 4_000,
}: TenantLookupOptions = {}): LookupFunction {
  return (hostname, options, callback) => {
    resolveHost(hostname, limitMs, servers).then(
      addresses => {
        const [first] = addresses;
        if (options.all) callback(null, addresses);
        else callback(null, first.address, first.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, ''),
    );
  };
}

interface FoundAddress {
  readonly address: string;
  readonly family: number;
}

async function resolveHost(
  hostname: string,
  limitMs: number,
  servers: readonly string[] | undefined,
): Promise<[FoundAddress, ...FoundAddress[]]> {
  // One resolver for each lookup, because `cancel()` ends all queries of a resolver.
  const resolver = new Resolver({ timeout: 1_500, tries: 2 });
  if (servers !== undefined) resolver.setServers(servers);
  let timer = setTimeout(() => resolver.cancel(), limitMs);
  const waitLittleLonger = (found: string[]) => {
    clearTimeout(timer);
    timer = setTimeout(() => resolver.cancel(), otherFamilyMs);
    return found;
  };
  try {
    const [v4, v6] = await Promise.allSettled([
      resolver.resolve4(hostname).then(waitLittleLonger),
      resolver.resolve6(hostname).then(waitLittleLonger),
    ]);
    const [first, ...others] = [...found(v4, 4), ...found(v6, 6)].slice(0, maxAddresses);
    if (first !== undefined) return [first, ...others];
    throw isAbsent(v4) && isAbsent(v6)
      ? lookupError('ENOTFOUND', hostname)
      : lookupError('EAI_AGAIN', hostname);
  } finally {
    clearTimeout(timer);
  }
}

function found(result: PromiseSettledResult<string[]>, family: number): FoundAddress[] {
  if (result.status === 'rejected') return [];
  return result.value.map(address => ({ address, family }));
}

/** Returns true if the name servers answered that there is no such name or no address. */
function isAbsent(result: PromiseSettledResult<string[]>): boolean {
  if (result.status === 'fulfilled') return true;
  return ['ENOTFOUND', 'ENODATA', 'EBADNAME', 'EFORMERR'].includes(result.reason?.code);
}

function lookupError(code: 'ENOTFOUND' | 'EAI_AGAIN', hostname: string): Error {
  return Object.assign(new Error(`${code} ${hostname}`), { code, hostname });
}
