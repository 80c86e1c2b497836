import type { FastifyUnderPressureOptions } from '@fastify/under-pressure'
import { RegistryError } from '../../errors.ts'
import type { Limits } from './limits.ts'

/** Milliseconds that the event loop may be late: by then every answer is. */
const MAX_EVENT_LOOP_DELAY_MS = 1000

/** Beyond so much of its memory a process refuses also what costs little: that is not nothing. */
const MAX_EXCESS = 1.25

/** What is answered at any rate: who asks for it wants to know how bad it is. */
const ALWAYS = new Set(['/healthz', '/readyz', '/metrics'])

/** What the catalog answers, in a page at most, and what makes the registry smaller. */
const CHEAP = new Set([
  'GET /models',
  'GET /models/:id',
  'GET /models/:id/lineage',
  'GET /models/:id/children',
  'DELETE /models/:id',
  'GET /stats',
  'GET /tokens',
  'POST /tokens',
  'DELETE /tokens/:id',
])

/**
 * What @fastify/under-pressure is registered with: a process that cannot keep up takes on nothing new. One that has more memory than it may
 * still answers from the catalog. Throws RegistryError `overloaded` for what is refused.
 */
export function pressureOptions({ rssBytes }: Limits): FastifyUnderPressureOptions {
  return {
    maxEventLoopDelay: MAX_EVENT_LOOP_DELAY_MS,
    ...(rssBytes > 0 && { maxRssBytes: rssBytes }),
    pressureHandler: ({ method, routeOptions: { url = '' } }, _reply, type, value) => {
      if (ALWAYS.has(url)) return
      const isMemory = type === 'rssBytes' && Number(value) <= rssBytes * MAX_EXCESS
      if (isMemory && CHEAP.has(`${method} ${url}`)) return
      throw new RegistryError('overloaded', `${type} is at ${value}`)
    },
  }
}
