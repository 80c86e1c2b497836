import type { FastifyInstance } from 'fastify'
import type { Metrics } from './metrics.ts'

/** Counts and logs every request once its answer is sent or its client has gone. */
export function observeRequests(app: FastifyInstance, metrics: Metrics): void {
  app.addHook('onRequest', async (request, reply) => {
    reply.raw.once('close', () => {
      const { method, url } = request
      const route = request.routeOptions.url ?? 'unmatched'
      const status = reply.raw.writableFinished ? reply.raw.statusCode : 499
      metrics.requests.inc({ method, route, status })
      metrics.duration.observe({ method, route }, reply.elapsedTime / 1000)
      request.log.info({ method, url, status, ms: Math.round(reply.elapsedTime) }, 'request')
    })
  })
}
