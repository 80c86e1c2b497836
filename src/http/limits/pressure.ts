import type { FastifyUnderPressureOptions } from '@fastify/under-pressure'
import { RegistryError } from '../../errors.ts'
import type { Limits } from './limits.ts'

/** Longest delay of the event loop, milliseconds: every answer is as late as that. */
const MAX_EVENT_LOOP_DELAY_MS = 1000

/** Above this multiple of its memory limit, a process refuses cheap requests too. */
const MAX_EXCESS = 1.25

/** Routes that are always answered: they report how the process does. */
const ALWAYS = new Set(['/healthz', '/readyz', '/metrics'])

/** Requests that the catalog answers with at most a page, and those that free memory or storage. */
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
 * Options of @fastify/under-pressure: a process that cannot keep up takes on nothing new. One above its memory limit still answers cheap requests.
 * Its handler throws RegistryError `overloaded`.
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
