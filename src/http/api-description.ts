import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import { jsonSchemaTransform, jsonSchemaTransformObject } from 'fastify-type-provider-zod'
import { z } from 'zod'
import packageJson from '../../package.json' with { type: 'json' }
import { PROBLEMS } from '../errors.ts'

/** The form of an upload route, which Fastify neither parses nor checks: `receiveUpload` does. */
export interface Form {
  readonly fields: z.ZodObject
  /** Names of its file parts. */
  readonly parts: readonly string[]
}

declare module 'fastify' {
  interface FastifyContextConfig {
    form?: Form
  }
}

/** Options of @fastify/swagger: what `openapi.yaml` is made of, beside the routes. */
export function apiDescription(): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Delta registry',
        version: packageJson.version,
        license: { name: packageJson.license, identifier: packageJson.license },
        description: description(),
      },
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      security: [{ token: [] }, {}],
    },
    transform: document => {
      const form = document.route.config?.form
      if (form === undefined) return jsonSchemaTransform(document)
      const body = form.fields.extend(
        Object.fromEntries(form.parts.map(part => [part, z.array(z.file()).optional()])),
      )
      const schema = { ...document.schema, body, consumes: ['multipart/form-data'] }
      return jsonSchemaTransform({ ...document, schema })
    },
    transformObject: jsonSchemaTransformObject,
  }
}

function description(): string {
  const rows = Object.entries(PROBLEMS).map(
    ([code, { status, title }]) => `| \`${code}\` | ${status} | ${title} |`,
  )
  return `Stores fine-tuned models as small deltas and streams any of them back as ordinary safetensors.

Wherever a model's id is taken, \`namespace/name@revision\`, percent-encoded as one segment, works too. In an upload, fields come
before files, and the filename of a file part is its path in the model. Content is served with Content-Length, a strong ETag and,
where it is known, Repr-Digest; Range, If-Range, If-Match and If-None-Match work; several ranges in one request are answered with the whole.

Errors are \`application/problem+json\` (RFC 9457). Their \`type\` is \`urn:wdelta:problem:\` and the code:

| code | status | |
|---|---|---|
${rows.join('\n')}
`
}
