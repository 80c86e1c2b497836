import type { CreateRateLimitOptions } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { RegistryError } from '../../errors.ts'
import type { Limits } from './limits.ts'

/** Most refused tokens a minute from one address: enough for typing errors, too few for guessing. */
const FAILURES_PER_MINUTE = 60

/** Counts of requests per minute. Both methods reject with RegistryError `too-many-requests`. */
export interface RateLimits {
  /** Counts a request of a token, or of the client's address if `token` is null. */
  asked(request: FastifyRequest, token: string | null): Promise<void>
  /** Counts a request whose token was refused. */
  refused(request: FastifyRequest): Promise<void>
}

/** The rate limits of an app that has @fastify/rate-limit registered. */
export function rateLimits(app: FastifyInstance, { requestsPerMinute }: Limits): RateLimits {
  const holders = new WeakMap<FastifyRequest, string>()
  const limit = (max: number, keyGenerator: CreateRateLimitOptions['keyGenerator']) =>
    app.createRateLimit({ max, timeWindow: '1 minute', keyGenerator: keyGenerator! })
  const byHolder = limit(requestsPerMinute, request => holders.get(request) ?? request.ip)
  const byAddress = limit(FAILURES_PER_MINUTE, request => request.ip)
  return {
    asked: async (request, token) => {
      if (requestsPerMinute === 0) return
      if (token !== null) holders.set(request, `token ${token}`)
      check(await byHolder(request), requestsPerMinute)
    },
    refused: async request => check(await byAddress(request), FAILURES_PER_MINUTE),
  }
}

type Verdict = Awaited<ReturnType<ReturnType<FastifyInstance['createRateLimit']>>>

function check(verdict: Verdict, most: number): void {
  if (verdict.isAllowed || !verdict.isExceeded) return
  const retryAfter = verdict.ttlInSeconds
  throw new RegistryError('too-many-requests', `expected at most ${most} requests in a minute`, {
    details: { retryAfter },
  })
}
