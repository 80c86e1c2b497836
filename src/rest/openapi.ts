import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import type { FastifyInstance, FastifySchema } from 'fastify'
import { jsonSchemaTransform, jsonSchemaTransformObject } from 'fastify-type-provider-zod'
import { stringify } from 'yaml'
import { z } from 'zod'
import { PROBLEMS } from '../errors.ts'
import { VERSION } from '../version.ts'

/** The form of an upload route. `receiveUpload` parses and checks it, not Fastify. */
interface Form {
  readonly fields: z.ZodObject
  /** Names of its file parts. */
  readonly parts: readonly string[]
}

declare module 'fastify' {
  interface FastifyContextConfig {
    form?: Form
  }
}

/** Options of @fastify/swagger: all of `openapi.yaml` but the routes. */
export function apiDescription(): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Delta registry',
        version: VERSION,
        license: { name: 'MIT', identifier: 'MIT' },
        description: description(),
      },
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      // With a token, or without one if the registry does not require it.
      security: [{ token: [] }, {}],
    },
    transform: document =>
      namePath(jsonSchemaTransform({ ...document, schema: withForm(document) })),
    transformObject: document => {
      const described = jsonSchemaTransformObject(document)
      const schemas = 'components' in described ? described.components?.schemas : {}
      for (const name of Object.keys(schemas ?? {})) {
        // Each named schema has a second version for requests, which no request uses.
        if (name.endsWith('Input')) delete schemas?.[name]
      }
      return described
    },
  }
}

/** The description of a ready app as YAML, without anchors: many OpenAPI tools do not resolve them. */
export function apiText(app: FastifyInstance): string {
  return stringify(app.swagger(), { aliasDuplicateObjects: false, lineWidth: 0 })
}

type Document = Parameters<typeof jsonSchemaTransform>[0]

function withForm({ schema, route }: Document): Document['schema'] {
  const form = route.config?.form
  if (form === undefined) return schema
  const files = form.parts.map(part => [part, z.array(z.file()).optional()])
  const body = form.fields.extend(Object.fromEntries(files))
  return { ...schema, body, consumes: ['multipart/form-data'] }
}

/** Shows `files/*` as `files/{path}`: OpenAPI has no wildcards. */
function namePath<Described extends { schema: FastifySchema; url: string }>(
  described: Described,
): Described {
  const { schema, url } = described
  if (!url.endsWith('/*')) return described
  const text = JSON.stringify(schema).replaceAll('"*"', '"path"')
  return { ...described, schema: JSON.parse(text), url: url.replace('*', ':path') }
}

function description(): string {
  const rows = Object.entries(PROBLEMS).map(
    ([code, { status, title }]) => `| \`${code}\` | ${status} | ${title} |`,
  )
  return [
    'Stores fine-tuned models as small deltas and streams any of them back as ordinary safetensors.',
    "Wherever a model's id is taken, `namespace/name@revision`, percent-encoded as one segment, works too. In an upload, fields come before files, and the filename of a file part is its path in the model. Content is served with Content-Length, a strong ETag and, where it is known, Repr-Digest; Range, If-Range, If-Match and If-None-Match work; several ranges in one request are answered with the whole.",
    'Errors are `application/problem+json` (RFC 9457). Their `type` is `urn:wdelta:problem:` and the code:',
    ['| code | status | |', '|---|---|---|', ...rows].join('\n'),
  ].join('\n\n')
}
