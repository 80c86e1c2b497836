import { checkUploadHead, receiveUpload, UPLOAD_LOG_SERIALIZERS } from '../http/upload.ts'
import type { HttpApp, RouteDeps } from './route-deps.ts'
import * as schemas from './schemas.ts'

/** Uploads, which make models: for scope `write`. */
export function publishRoutes(app: HttpApp, deps: RouteDeps): void {
  const { registry, access, metrics, uploadLimits: limits, uploads } = deps
  const tags = ['publish']
  const onRequest = [checkUploadHead(limits), uploads.hook]
  const receiving = { limits, metrics, uploads }

  app.post('/models', {
    onRequest,
    logSerializers: UPLOAD_LOG_SERIALIZERS,
    config: { form: { fields: schemas.modelFields, parts: ['file'] } },
    schema: {
      tags,
      summary: 'Publish a model from its files',
      response: { 201: schemas.model, default: schemas.failure },
    },
    handler: async (request, reply) => {
      const fields = schemas.modelFields
      const model = await receiveUpload(
        request,
        reply,
        fields,
        receiving,
        (form, parts, signal) => {
          const { outlier_fraction: outlierFraction, sparsity, ...options } = form
          const all = { ...options, outlierFraction, sparsity, ...access.recheck(request) }
          return registry.publish.files(all, parts, signal)
        },
      )
      return reply.code(201).header('location', `/models/${model.id}`).send(model)
    },
  })

  app.post('/deltas', {
    onRequest,
    logSerializers: UPLOAD_LOG_SERIALIZERS,
    config: { form: { fields: schemas.deltaFields, parts: ['delta', 'file'] } },
    schema: {
      tags,
      summary: 'Publish a model from a .wdelta file',
      response: { 201: schemas.model, default: schemas.failure },
    },
    handler: async (request, reply) => {
      const fields = schemas.deltaFields
      const model = await receiveUpload(request, reply, fields, receiving, (form, parts, signal) =>
        registry.publish.delta({ ...form, ...access.recheck(request) }, parts, signal),
      )
      return reply.code(201).header('location', `/models/${model.id}`).send(model)
    },
  })
}
