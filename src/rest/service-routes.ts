import { RegistryError } from '../errors.ts'
import { PROBLEM_TYPE, RETRY_AFTER_SECONDS, toProblem } from '../http/problems/problem.ts'
import { VERSION } from '../version.ts'
import { apiText } from './openapi.ts'
import type { HttpApp, RouteDeps } from './route-deps.ts'
import * as schemas from './schemas.ts'

/** Health, readiness, metrics and the API's description: for everyone who reaches the listener. */
export function serviceRoutes(app: HttpApp, { registry, metrics, draining }: RouteDeps): void {
  const tags = ['service']
  // Made at the first request, when all routes are there.
  let description: string | null = null

  app.get('/healthz', {
    schema: {
      tags,
      security: [],
      summary: 'Whether the process is alive',
      response: { 200: schemas.health },
    },
    handler: () => ({ status: 'ok' as const, version: VERSION }),
  })

  app.get('/readyz', {
    schema: {
      tags,
      security: [],
      summary: 'Whether it can work; 503 when it cannot, refuses all work, or shuts down',
      response: { 200: schemas.status, default: schemas.failure },
    },
    handler: async (_request, reply) => {
      if (draining()) throw new RegistryError('shutting-down', 'the process is about to end')
      if (app.isUnderPressure()) {
        const { rssBytes, eventLoopDelay } = app.memoryUsage()
        const found = `the process has ${rssBytes} bytes and is ${Math.round(eventLoopDelay)} ms late`
        throw new RegistryError('overloaded', `no work is taken on: ${found}`)
      }
      try {
        await registry.care.ready()
      } catch (error) {
        const { code, message: detail } = error as RegistryError
        if (code !== 'storage-full') throw error
        // An upload gets 507; a probe gets 503, with the reason, which is no secret.
        const problem = { ...toProblem(error as RegistryError), status: 503, detail }
        return reply
          .code(503)
          .header('retry-after', RETRY_AFTER_SECONDS)
          .type(PROBLEM_TYPE)
          .send(problem)
      }
      return { status: 'ok' as const }
    },
  })

  app.get('/metrics', {
    schema: {
      tags,
      security: [],
      summary: 'Prometheus metrics',
      response: { 200: schemas.text('Prometheus text format', 'text/plain') },
    },
    handler: async (_request, reply) => {
      const { type, text } = await metrics.render()
      return reply.type(type).send(text)
    },
  })

  app.get('/openapi.yaml', {
    schema: {
      tags,
      security: [],
      summary: 'This description',
      response: { 200: schemas.text('OpenAPI 3.1', 'application/yaml') },
    },
    handler: async (_request, reply) => {
      description ??= apiText(app)
      return reply.type('application/yaml').send(description)
    },
  })
}
