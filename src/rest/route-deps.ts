import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import type { Downloads, Limits, Uploads } from '../http/admission.ts'
import type { Access, Auth } from '../http/auth.ts'
import type { Metrics } from '../http/metrics.ts'
import type { RateLimits } from '../http/rate-limits.ts'
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
