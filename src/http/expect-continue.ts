import type { FastifyInstance } from 'fastify'

/**
 * Answers `Expect: 100-continue` when a request has passed its `onRequest` hooks (token, type, length), not before: a refused upload
 * is then never sent. Node would say `100 Continue` to everybody.
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
