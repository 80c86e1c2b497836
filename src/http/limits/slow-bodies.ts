import { PassThrough } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { isArriving } from '../problems/problem.ts'
import { type LeastRate, tooSlow, watchRate } from './least-rate.ts'

/** Methods whose body is not read. */
const BODYLESS = new Set(['GET', 'HEAD'])

/**
 * Ends requests whose body comes slower than the least rate: with `upload-too-slow`, or by closing the connection once the answer has begun.
 * Leaves uploads out: they are watched while the registry reads them. A JSON body is so small that it must arrive within one window.
 */
export function refuseSlowBodies(app: FastifyInstance, leastRate: LeastRate): void {
  app.addHook('preParsing', async (request, reply, payload) => {
    const { raw, method } = request
    if (request.routeOptions.config?.form || !isArriving(raw)) return payload
    // Errors of the request's stream must reach the parser, which reads this one.
    const body = new PassThrough()
    // Once the request is refused, nothing else listens.
    body.on('error', () => {})
    const slow = () => {
      raw.unpipe(body)
      if (reply.sent || BODYLESS.has(method)) raw.destroy()
      else body.destroy(tooSlow(leastRate))
    }
    const { socket } = raw
    const stop = watchRate(raw, leastRate, () => socket.bytesRead, slow)
    raw.once('close', stop).on('error', error => body.destroy(error))
    if (!BODYLESS.has(method)) return raw.pipe(body)
    raw.resume()
    return payload
  })
}
