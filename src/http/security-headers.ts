import type { FastifyInstance } from 'fastify'

/** What a browser must not do with the pages: show them inside of another site's, where a click is not meant for them, or run anything old in them. */
const OF_PAGES = {
  'x-frame-options': 'DENY',
  'content-security-policy': "frame-ancestors 'none'; base-uri 'self'; object-src 'none'",
}

/** Sets the headers by which browsers are careful with the answers of `app`: a type is what it says, everywhere. */
export function addSecurityHeaders(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ routeOptions: { url = '' } }, reply) => {
    reply.header('x-content-type-options', 'nosniff')
    if (url.startsWith('/docs')) reply.headers(OF_PAGES)
  })
}
