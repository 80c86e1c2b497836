import { PassThrough } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { isArriving } from '../problems/problem.ts'
import { type LeastRate, tooSlow, watchRate } from './least-rate.ts'

/** Methods whose body nobody reads. */
const BODYLESS = new Set(['GET', 'HEAD'])

/**
 * Ends requests whose body comes slower than the least rate: `upload-too-slow`, or without a word where the answer is under way. Uploads are no
 * concern of this: they are watched while the registry reads them. A body of JSON is so small that it must be there within one window.
 */
export function refuseSlowBodies(app: FastifyInstance, leastRate: LeastRate): void {
  app.addHook('preParsing', async (request, reply, payload) => {
    const { raw, method } = request
    if (request.routeOptions.config?.form || !isArriving(raw)) return payload
    // What a client that is gone, or was refused, does to the body ends what reads it too.
    const body = new PassThrough()
    // Nobody listens once the request was refused.
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
