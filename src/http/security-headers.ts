import type { FastifyInstance } from 'fastify'

/** Headers of pages: no other site may show them in a frame, where it could steer clicks, and they load no plugins. */
const OF_PAGES = {
  'x-frame-options': 'DENY',
  'content-security-policy': "frame-ancestors 'none'; base-uri 'self'; object-src 'none'",
}

/** Sets the headers that make browsers careful with the answers of `app`. On all routes, browsers must not guess another media type. */
export function addSecurityHeaders(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ routeOptions: { url = '' } }, reply) => {
    reply.header('x-content-type-options', 'nosniff')
    if (url.startsWith('/docs')) reply.headers(OF_PAGES)
  })
}
