import type { FastifyInstance, FastifyRequest } from 'fastify'
import { RegistryError } from '../../errors.ts'

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

/** The handler of paths without a route. */
export function notFound({ method, url }: FastifyRequest): never {
  throw new RegistryError('not-found', `there is no ${method} ${url}`)
}

/** Collects the routes of `app` that are added from now on. The returned function answers their other methods with 405. */
export function refuseOtherMethods(app: FastifyInstance): () => void {
  const allowed = new Map<string, Set<string>>()
  app.addHook('onRoute', ({ url, method }) => {
    const methods = allowed.get(url) ?? new Set()
    allowed.set(url, methods)
    for (const each of [method].flat()) methods.add(each)
  })
  return () => {
    for (const [url, methods] of [...allowed]) {
      const allow = [...methods].sort().join(', ')
      app.route({
        method: METHODS.filter(method => !methods.has(method)),
        url,
        schema: { hide: true },
        handler: ({ method }) => {
          throw new RegistryError('method-not-allowed', `expected ${allow}, got ${method}`, {
            details: { allow },
          })
        },
      })
    }
  }
}
