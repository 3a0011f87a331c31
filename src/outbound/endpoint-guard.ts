/**
 * Guards connections to custom endpoints. A tenant chooses their addresses, and this service dials
 * them from inside the operator's network. The allow-list applies to the dialled address at every
 * connect, because a name may resolve to another address each time.
 */
import dns from 'node:dns';
import http from 'node:http';
import https from 'node:https';
import { isIP, type LookupFunction } from 'node:net';
import type { Duplex } from 'node:stream';
import {
  bareHost,
  type EndpointAllowlist,
  isAllowed,
  isHostListed,
  type Target,
} from './endpoint-allowlist.ts';
import { createTenantLookup } from './tenant-lookup.ts';

/**
 * Error for a forbidden endpoint. It does not reveal the address or whether there is one, so that
 * callers cannot explore the network.
 */
export class EndpointNotAllowedError extends Error {
  override readonly name = 'EndpointNotAllowedError';

  constructor() {
    super('The endpoint may not be reached.');
  }
}

export interface GuardedAgentOptions extends https.AgentOptions {
  /**
   * Resolves names. Must honour the option `all`. Default: `createTenantLookup()`, but `dns.lookup`
   * for hosts on the allow-list, because the operator chose them and may have them in `/etc/hosts`.
   */
  readonly resolve?: LookupFunction;
}

/** Creates agents that dial only what the rule allows. */
export function createGuardedAgents(
  allowlist: EndpointAllowlist,
  { resolve, ...options }: GuardedAgentOptions = {},
): { httpAgent: http.Agent; httpsAgent: https.Agent } {
  return {
    httpAgent: new GuardedHttpAgent(options, guardConnection(allowlist, 'http', resolve)),
    httpsAgent: new GuardedHttpsAgent(options, guardConnection(allowlist, 'https', resolve)),
  };
}

type ConnectCallback = (error: Error | null, socket: Duplex) => void;
type ConnectOptions = Pick<http.ClientRequestArgs, 'host' | 'port'>;
/** Returns the lookup to dial with, or an error if the host is a forbidden IP address. */
type ConnectionGuard = (options: ConnectOptions) => LookupFunction | EndpointNotAllowedError;

class GuardedHttpAgent extends http.Agent {
  readonly #guard: ConnectionGuard;

  constructor(options: http.AgentOptions, guard: ConnectionGuard) {
    super(options);
    this.#guard = guard;
  }

  override createConnection(options: http.ClientRequestArgs, callback?: ConnectCallback) {
    const lookup = this.#guard(options);
    return lookup instanceof Error
      ? refuse(lookup, callback)
      : super.createConnection({ ...options, lookup }, callback);
  }
}

class GuardedHttpsAgent extends https.Agent {
  readonly #guard: ConnectionGuard;

  constructor(options: https.AgentOptions, guard: ConnectionGuard) {
    super(options);
    this.#guard = guard;
  }

  override createConnection(options: https.RequestOptions, callback?: ConnectCallback) {
    const lookup = this.#guard(options);
    return lookup instanceof Error
      ? refuse(lookup, callback)
      : super.createConnection({ ...options, lookup }, callback);
  }
}

function refuse(error: Error, callback: ConnectCallback | undefined): null {
  // Node's agents expect the error by callback, like that of a failed socket.
  process.nextTick(() => callback?.(error, undefined as never));
  return null;
}

function guardConnection(
  allowlist: EndpointAllowlist,
  scheme: Target['scheme'],
  resolve: LookupFunction | undefined,
): ConnectionGuard {
  const tenantLookup = createTenantLookup();
  return ({ host, port }) => {
    const target = { host: bareHost(host ?? ''), port: Number(port), scheme };
    // Sockets do not look up IP addresses, so the lookup below is not called for them.
    if (isIP(target.host) !== 0 && !isAllowed(allowlist, target, target.host)) {
      return new EndpointNotAllowedError();
    }
    const lookup = isHostListed(allowlist, target) ? dns.lookup : tenantLookup;
    return guardLookup(allowlist, target, resolve ?? lookup);
  };
}

function guardLookup(
  allowlist: EndpointAllowlist,
  target: Target,
  resolve: LookupFunction,
): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname, { ...options, all: true }, (error, found) => {
      const addresses =
        typeof found === 'string' ? [{ address: found, family: isIP(found) }] : found;
      if (error) {
        callback(
          isNameServerTrouble(error) || isHostListed(allowlist, target) ? error : refusal(),
          '',
        );
        return;
      }
      // One forbidden address rejects the name, because Node may dial any of them.
      const [first] = addresses;
      if (
        first === undefined ||
        !addresses.every(({ address }) => isAllowed(allowlist, target, address))
      ) {
        callback(refusal(), '');
      } else if (options.all) {
        callback(null, addresses);
      } else {
        callback(null, first.address, first.family);
      }
    });
  };
}

const refusal = (): NodeJS.ErrnoException => new EndpointNotAllowedError();

/** Returns true if the name servers did not answer. A later attempt may succeed. */
function isNameServerTrouble(error: NodeJS.ErrnoException): boolean {
  return error.code === 'EAI_AGAIN';
}
