import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import type { Registry } from '../registry/registry.ts'
import type { Downloads, Limits, Uploads } from './admission.ts'
import type { Access, Auth } from './auth.ts'
import type { Metrics } from './metrics.ts'
import type { RateLimits } from './rate-limits.ts'
import type { UploadLimits } from './upload.ts'

/** A Fastify instance whose handlers are typed by the zod schemas of their routes. */
export type HttpApp = FastifyInstance<
  RawServerDefault,
  import('node:http').IncomingMessage,
  import('node:http').ServerResponse,
  FastifyBaseLogger,
  ZodTypeProvider
>

/** What routes close over. */
export interface RouteDeps {
  readonly registry: Registry
  readonly auth: Auth
  readonly access: Access
  readonly metrics: Metrics
  readonly uploads: UploadLimits
  readonly places: Uploads
  readonly limits: Limits
  readonly rates: RateLimits
  readonly downloads: Downloads
  /** True once the process has begun to shut down. */
  readonly draining: () => boolean
}
