import { sendList } from '../http/send-list.ts'
import type { HttpApp, RouteDeps } from './route-deps.ts'
import * as schemas from './schemas.ts'

/** Models, their lineage, tensors and statistics. */
export function modelRoutes(app: HttpApp, { registry }: Pick<RouteDeps, 'registry'>): void {
  const tags = ['models']

  app.get('/models', {
    schema: {
      tags,
      summary: 'List models, newest first',
      querystring: schemas.listQuery,
      response: { 200: schemas.modelPage, default: schemas.failure },
    },
    handler: async ({ query }) => {
      if (query.parent === undefined) return registry.models.list(query)
      const { id } = await registry.models.find(query.parent)
      return registry.models.list({ ...query, parent: id })
    },
  })

  app.get('/models/:id', {
    schema: {
      tags,
      summary: 'One model',
      params: schemas.refParams,
      response: { 200: schemas.model, default: schemas.failure },
    },
    handler: ({ params }) => registry.models.find(params.id),
  })

  app.get('/models/:id/lineage', {
    schema: {
      tags,
      summary: 'The models from the base to this one',
      params: schemas.refParams,
      querystring: schemas.fullPageQuery,
      response: { 200: schemas.lineagePage, default: schemas.failure },
    },
    handler: ({ params, query }) => registry.models.lineage(params.id, query),
  })

  app.get('/models/:id/children', {
    schema: {
      tags,
      summary: 'The models whose parent this is, newest first',
      params: schemas.refParams,
      querystring: schemas.pageQuery,
      response: { 200: schemas.modelPage, default: schemas.failure },
    },
    handler: ({ params, query }) => registry.models.children(params.id, query),
  })

  app.get('/models/:id/tensors', {
    schema: {
      tags,
      summary: 'Names, dtypes and shapes of the tensors',
      params: schemas.refParams,
      response: { 200: schemas.tensors, default: schemas.failure },
    },
    handler: async ({ params }, reply) => {
      return sendList(reply, {}, 'tensors', await registry.models.tensors(params.id))
    },
  })

  app.get('/models/:id/inspect', {
    schema: {
      tags,
      summary: 'How the delta stores each tensor',
      params: schemas.refParams,
      response: { 200: schemas.inspection, default: schemas.failure },
    },
    handler: async ({ params }, reply) => {
      const { tensors, ...inspection } = await registry.models.inspect(params.id)
      return sendList(reply, inspection, 'tensors', tensors)
    },
  })

  app.get('/stats', {
    schema: {
      tags,
      summary: 'What the registry holds, and what it saves',
      response: { 200: schemas.stats, default: schemas.failure },
    },
    handler: async () => registry.models.stats(),
  })
}
