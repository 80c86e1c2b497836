import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { RegistryError } from '../errors.ts'
import type { PublishDeltaOptions, Scope, Tokens } from '../registry/registry.ts'
import type { RateLimits } from './limits/rate-limits.ts'

/** Who has access: everybody, or bearers of tokens. `adminToken` is one from the configuration. */
export type Auth =
  | { readonly mode: 'none' }
  | { readonly mode: 'tokens'; readonly adminToken?: string | undefined }

/** Each scope includes the ones before it. */
const SCOPES: readonly Scope[] = ['read', 'write', 'admin']

interface AccessDeps {
  readonly tokens: Pick<Tokens, 'authenticate'>
  readonly auth: Auth
  readonly rates: RateLimits
}

interface Holder {
  readonly id: string
  readonly scope: Scope
}

/** Access control by tokens. */
export interface Access {
  /** An `onRequest` hook that requires a token of `scope` and counts the request. Rejects `unauthorized`, `forbidden` or `too-many-requests`. */
  require(scope: Scope): (request: FastifyRequest) => Promise<void>
  /**
   * For an upload, which may last hours while its token is revoked or expires: a check of the token of a request that {@link require} let pass, which
   * rejects `unauthorized`. Empty if tokens are not required.
   */
  recheck(request: FastifyRequest): Pick<PublishDeltaOptions, 'authorized'>
  /** The sender of a request that {@link require} let pass: the id of a token, or without tokens an address. */
  ownerOf(request: FastifyRequest): string
}

/** The access control of an app: the only code that judges tokens. */
export function accessControl({ tokens, auth, rates }: AccessDeps): Access {
  const holderOf = async ({ headers }: FastifyRequest, adminToken: string | undefined) => {
    const token = bearer(headers.authorization)
    if (isSame(token, adminToken)) return ADMINISTRATOR
    return tokens.authenticate(token)
  }
  const owners = new WeakMap<FastifyRequest, string>()
  return {
    require: scope => async request => {
      if (auth.mode === 'none') return rates.asked(request, null)
      const holder = await holderOf(request, auth.adminToken)
      if (!holder) {
        await rates.refused(request)
        throw unauthorized()
      }
      owners.set(request, `token ${holder.id}`)
      await rates.asked(request, holder.id)
      if (SCOPES.indexOf(holder.scope) < SCOPES.indexOf(scope)) {
        throw new RegistryError(
          'forbidden',
          `expected a token of scope ${scope}, got ${holder.scope}`,
        )
      }
    },
    recheck: request => {
      if (auth.mode === 'none') return {}
      const authorized = async () => {
        // The scope of a token never changes.
        if (!(await holderOf(request, auth.adminToken))) throw unauthorized()
      }
      return { authorized }
    },
    ownerOf: request => owners.get(request) ?? request.ip,
  }
}

/** The bearer of the configuration's token. */
const ADMINISTRATOR: Holder = { id: 'ADMIN_TOKEN', scope: 'admin' }

function unauthorized(): RegistryError {
  return new RegistryError('unauthorized', 'the token is not known here, or it has expired')
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
