import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { RegistryError } from '../errors.ts'
import type { Registry, Scope } from '../registry/registry.ts'

/** Who may come in: anybody, or bearers of tokens. `adminToken` is one that the configuration brings. */
export type Auth =
  | { readonly mode: 'none' }
  | { readonly mode: 'tokens'; readonly adminToken?: string | undefined }

/** Each scope includes the ones before it. */
const SCOPES: readonly Scope[] = ['read', 'write', 'admin']

/** An `onRequest` hook that lets pass who may do `scope`. Rejects `unauthorized` or `forbidden`. */
export function requireScope(
  scope: Scope,
  { registry, auth }: { registry: Pick<Registry, 'authenticate'>; auth: Auth },
): (request: FastifyRequest) => Promise<void> {
  return async request => {
    if (auth.mode === 'none') return
    const token = bearer(request.headers.authorization)
    const held = isSame(token, auth.adminToken)
      ? 'admin'
      : (await registry.authenticate(token))?.scope
    if (held === undefined) {
      throw new RegistryError('unauthorized', 'the token is not known here, or it has expired')
    }
    if (SCOPES.indexOf(held) < SCOPES.indexOf(scope)) {
      throw new RegistryError('forbidden', `expected a token of scope ${scope}, got ${held}`)
    }
  }
}

function bearer(authorization: string | undefined): string {
  const token = /^bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
  if (token !== undefined) return token
  throw new RegistryError('unauthorized', 'expected Authorization: Bearer <token>')
}

/** Takes the same time whichever byte differs. */
function isSame(token: string, expected: string | undefined): boolean {
  if (expected === undefined) return false
  const hash = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(hash(token), hash(expected))
}
