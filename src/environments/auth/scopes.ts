/** Scopes of API keys and user tokens. `exports:write` implies `exports:read`. */

export const scopes = ['exports:read', 'exports:write', 'snapshots:write'] as const;
export type Scope = (typeof scopes)[number];

export function scopesAllow(granted: readonly Scope[], needed: Scope): boolean {
  return (
    granted.includes(needed) || (needed === 'exports:read' && granted.includes('exports:write'))
  );
}
