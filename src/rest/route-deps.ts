import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import type { Access, Auth } from '../http/auth.ts'
import type { Downloads, Uploads } from '../http/limits/admission.ts'
import type { Metrics } from '../http/metrics.ts'
import type { UploadLimits } from '../http/upload.ts'
import type { Registry } from '../registry/registry.ts'

/** A Fastify instance whose handlers are typed by the zod schemas of their routes. */
export type HttpApp = FastifyInstance<
  RawServerDefault,
  import('node:http').IncomingMessage,
  import('node:http').ServerResponse,
  FastifyBaseLogger,
  ZodTypeProvider
>

/** What the routes need. */
export interface RouteDeps {
  readonly registry: Registry
  readonly auth: Auth
  readonly access: Access
  readonly metrics: Metrics
  readonly uploadLimits: UploadLimits
  readonly uploads: Uploads
  readonly downloads: Downloads
  /** True once the process has begun to shut down. */
  readonly draining: () => boolean
}
