import type { FastifyReply, FastifyRequest } from 'fastify'
import { cacheControlOf, sendContent } from '../http/send-content.ts'
import { type Content, castOf } from '../registry/registry.ts'
import type { HttpApp, RouteDeps } from './route-deps.ts'
import * as schemas from './schemas.ts'

/** The bytes of models. One handler serves GET and HEAD: Fastify's own HEAD would run the whole GET. */
export function contentRoutes(app: HttpApp, deps: RouteDeps): void {
  const { registry, auth, metrics, downloads } = deps
  const tags = ['content']
  const method: ('GET' | 'HEAD')[] = ['GET', 'HEAD']
  const isPublic = auth.mode === 'none'
  const send = (request: FastifyRequest, reply: FastifyReply, ref: string, content: Content) =>
    sendContent(request, reply, content, {
      metrics,
      downloads,
      cacheControl: cacheControlOf(ref, isPublic),
    })

  app.route({
    method,
    url: '/models/:id/reconstruct',
    schema: {
      tags,
      summary: 'The model as one safetensors file',
      params: schemas.refParams,
      querystring: schemas.reconstructQuery,
      response: contentResponses('A safetensors file'),
    },
    handler: async (request, reply) => {
      const { params, query } = request
      const dtype = castOf(query.dtype) ?? undefined
      return send(
        request,
        reply,
        params.id,
        await registry.models.openReconstruct(params.id, dtype),
      )
    },
  })

  app.route({
    method,
    url: '/models/:id/files/*',
    schema: {
      tags,
      summary: 'One file of the model, byte for byte',
      params: schemas.fileParams,
      response: contentResponses('The file'),
    },
    handler: async (request, reply) => {
      const { id, '*': path } = request.params
      return send(request, reply, id, await registry.models.openFile(id, path))
    },
  })

  app.route({
    method,
    url: '/models/:id/tensors/:name',
    schema: {
      tags,
      summary: 'The bytes of one tensor, little-endian, row-major',
      params: schemas.tensorParams,
      response: contentResponses('The tensor; `X-Tensor-Dtype` and `X-Tensor-Shape` describe it'),
    },
    handler: async (request, reply) => {
      const { id, name } = request.params
      const content = await registry.models.openTensor(id, name)
      reply.header('x-tensor-dtype', content.dtype)
      reply.header('x-tensor-shape', JSON.stringify(content.shape))
      return send(request, reply, id, content)
    },
  })

  app.route({
    method,
    url: '/models/:id/delta',
    schema: {
      tags,
      summary: 'The .wdelta blob exactly as stored',
      params: schemas.refParams,
      response: contentResponses('A .wdelta file'),
    },
    handler: async (request, reply) => {
      const { id } = request.params
      return send(request, reply, id, await registry.models.openDelta(id))
    },
  })
}

function contentResponses(description: string) {
  return {
    200: schemas.binary(`${description}. With Content-Length, ETag, Repr-Digest where it is known`),
    206: schemas.binary('The range that was asked for'),
    304: schemas.nothing.describe('If-None-Match names the ETag'),
    default: schemas.failure,
  }
}
