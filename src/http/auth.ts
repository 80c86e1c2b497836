import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { RegistryError } from '../errors.ts'
import type { Registry, Scope } from '../registry/registry.ts'
import type { RateLimits } from './rate-limits.ts'

/** Who may come in: anybody, or bearers of tokens. `adminToken` is one that the configuration brings. */
export type Auth =
  | { readonly mode: 'none' }
  | { readonly mode: 'tokens'; readonly adminToken?: string | undefined }

/** Each scope includes the ones before it. */
const SCOPES: readonly Scope[] = ['read', 'write', 'admin']

interface AuthDeps {
  readonly registry: Pick<Registry, 'authenticate'>
  readonly auth: Auth
  readonly rates: RateLimits
}

/** An `onRequest` hook that lets pass who may do `scope`, as often as they may. Rejects `unauthorized`, `forbidden` or `too-many-requests`. */
export function requireScope(
  scope: Scope,
  { registry, auth, rates }: AuthDeps,
): (request: FastifyRequest) => Promise<void> {
  return async request => {
    if (auth.mode === 'none') {
      await rates.asked(request, null)
      return
    }
    const token = bearer(request.headers.authorization)
    const holder = isSame(token, auth.adminToken)
      ? { id: 'ADMIN_TOKEN', scope: 'admin' as const }
      : await registry.authenticate(token)
    if (!holder) {
      await rates.refused(request)
      throw new RegistryError('unauthorized', 'the token is not known here, or it has expired')
    }
    const { id, scope: held } = holder
    await rates.asked(request, id)
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
