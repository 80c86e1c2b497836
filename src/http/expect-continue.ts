import type { FastifyInstance } from 'fastify'

/**
 * Answers `Expect: 100-continue` only once a request has passed its `onRequest` hooks (token, type, length), so that a client never sends a
 * refused upload. Node by itself would answer at once.
 */
export function continueLater(app: FastifyInstance): void {
  app.server.on('checkContinue', (request, response) =>
    app.server.emit('request', request, response),
  )
  app.addHook('preParsing', async ({ headers, is404 }, reply) => {
    const { expect = '' } = headers
    if (!is404 && /^100-continue$/i.test(expect)) reply.raw.writeContinue()
  })
}
