import type { FastifyUnderPressureOptions } from '@fastify/under-pressure'
import { RegistryError } from '../errors.ts'
import type { Limits } from './gates.ts'

/** Milliseconds that the event loop may be late: by then every answer is. */
const EVENT_LOOP_DELAY_MS = 1000

/** What is answered at any rate: who asks for it wants to know how bad it is. */
const ALWAYS = new Set(['/healthz', '/readyz', '/metrics'])

/** What @fastify/under-pressure is registered with: a process that cannot keep up takes on nothing new. */
export function pressureOptions({ rssBytes }: Limits): FastifyUnderPressureOptions {
  return {
    maxEventLoopDelay: EVENT_LOOP_DELAY_MS,
    ...(rssBytes > 0 && { maxRssBytes: rssBytes }),
    pressureHandler: ({ routeOptions }, _reply, type, value) => {
      if (ALWAYS.has(routeOptions.url ?? '')) return
      throw new RegistryError('overloaded', `${type} is at ${value}`)
    },
  }
}
