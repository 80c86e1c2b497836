import { closeSignal } from '../http/close-signal.ts'
import { sendContent } from '../http/send-content.ts'
import type { HttpApp, RouteDeps } from './route-deps.ts'
import * as schemas from './schemas.ts'

/** Tokens, deletion, sweep, scrub and backup: for scope `admin`. */
export function adminRoutes(
  app: HttpApp,
  { registry, metrics, downloads }: Pick<RouteDeps, 'registry' | 'metrics' | 'downloads'>,
): void {
  const tags = ['admin']

  app.post('/tokens', {
    schema: {
      tags,
      summary: 'Create a token; its secret is shown this once',
      body: schemas.newToken,
      response: { 201: schemas.createdToken, default: schemas.failure },
    },
    handler: async ({ body }, reply) => {
      const token = await registry.tokens.create(body)
      return reply.code(201).header('cache-control', 'no-store').send(token)
    },
  })

  app.get('/tokens', {
    schema: {
      tags,
      summary: 'List tokens, without their secrets',
      querystring: schemas.fullPageQuery,
      response: { 200: schemas.tokens, default: schemas.failure },
    },
    handler: ({ query }) => registry.tokens.list(query),
  })

  app.delete('/tokens/:id', {
    schema: {
      tags,
      summary: 'Revoke a token',
      params: schemas.tokenParams,
      response: { 204: schemas.nothing, default: schemas.failure },
    },
    handler: async ({ params }, reply) => {
      await registry.tokens.revoke(params.id)
      return reply.code(204).send()
    },
  })

  app.delete('/models/:id', {
    schema: {
      tags,
      summary: 'Delete a model',
      params: schemas.refParams,
      response: { 204: schemas.nothing, default: schemas.failure },
    },
    handler: async ({ params }, reply) => {
      await registry.models.remove(params.id)
      return reply.code(204).send()
    },
  })

  app.post('/admin/sweep', {
    schema: {
      tags,
      summary: 'Delete bytes that no model needs',
      body: schemas.sweepOptions,
      response: { 200: schemas.sweepReport, default: schemas.failure },
    },
    handler: ({ body }) => registry.care.sweep({ dryRun: body?.dryRun ?? false }),
  })

  app.post('/admin/scrub', {
    schema: {
      tags,
      summary: 'Read and check every byte that is stored; takes as long as that does',
      response: { 200: schemas.scrubReport, default: schemas.failure },
    },
    handler: (request, reply) => {
      // The connection is idle until the scrub is done.
      request.raw.socket.setTimeout(0)
      return registry.care.scrub({ signal: closeSignal(reply) })
    },
  })

  app.get('/admin/backup', {
    schema: {
      tags,
      summary: 'A consistent copy of the catalog, an SQLite file',
      response: { 200: schemas.binary('An SQLite file'), default: schemas.failure },
    },
    handler: async (request, reply) => {
      await using copy = await registry.care.backup()
      const options = { metrics, downloads, cacheControl: 'no-store' }
      return await sendContent(request, reply, copy, options)
    },
  })
}
