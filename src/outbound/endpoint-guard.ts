/**
 * Custom endpoints are addresses that a customer typed and that this service then dials from inside the operator's
 * network. The rule of the allow-list is applied to the address that is dialled, at every connect, because a name may
 * resolve to another address each time.
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

/** Says nothing of the address, nor of whether the name has one: the caller must not learn the inside by asking. */
export class EndpointNotAllowedError extends Error {
  override readonly name = 'EndpointNotAllowedError';

  constructor() {
    super('The endpoint may not be reached.');
  }
}

export interface GuardedAgentOptions extends https.AgentOptions {
  /** Resolves names; `dns.lookup` unless a test stands in for it. Must honour `all`. */
  readonly resolve?: LookupFunction;
}

/** Agents that dial nothing but what the rule allows. */
export function createGuardedAgents(
  allowlist: EndpointAllowlist,
  { resolve = dns.lookup, ...options }: GuardedAgentOptions = {},
): { httpAgent: http.Agent; httpsAgent: https.Agent } {
  return {
    httpAgent: new GuardedHttpAgent(options, guardConnection(allowlist, 'http', resolve)),
    httpsAgent: new GuardedHttpsAgent(options, guardConnection(allowlist, 'https', resolve)),
  };
}

type ConnectCallback = (error: Error | null, socket: Duplex) => void;
type ConnectOptions = Pick<http.ClientRequestArgs, 'host' | 'port'>;
/** The lookup to dial with, or the refusal of an address that was written out. */
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
  // Node's agents take the failure by callback, as of a socket that could not be made.
  process.nextTick(() => callback?.(error, undefined as never));
  return null;
}

function guardConnection(
  allowlist: EndpointAllowlist,
  scheme: Target['scheme'],
  resolve: LookupFunction,
): ConnectionGuard {
  return ({ host, port }) => {
    const target = { host: bareHost(host ?? ''), port: Number(port), scheme };
    // Sockets never look an address up that is written out, so the lookup below would not be asked.
    if (isIP(target.host) !== 0 && !isAllowed(allowlist, target, target.host)) {
      return new EndpointNotAllowedError();
    }
    return guardLookup(allowlist, target, resolve);
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
      // One bad address refuses the name: which of several is dialled is not ours to choose.
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

/** The name servers did not answer at all, which says nothing of the name and may pass. */
function isNameServerTrouble(error: NodeJS.ErrnoException): boolean {
  return error.code === 'EAI_AGAIN';
}
