import type { Core } from '../core.ts'
import type { Tokens } from '../registry.ts'
import { authenticate, createToken, toToken } from '../tokens.ts'
import { withoutUndefined } from './without-undefined.ts'

/** The methods about tokens. Revoking one works on a full disk. */
export function tokenMethods({ catalog, room }: Pick<Core, 'catalog' | 'room'>): Tokens {
  return {
    create: options => createToken(catalog, options),
    list: async page => {
      const { tokens, next } = await catalog.listTokens(withoutUndefined(page))
      return { tokens: tokens.map(toToken), next }
    },
    revoke: id => room.lend(() => catalog.deleteToken(id)),
    authenticate: token => authenticate(catalog, token),
  }
}
