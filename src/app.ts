import multipart from '@fastify/multipart'
import rateLimit from '@fastify/rate-limit'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import underPressure from '@fastify/under-pressure'
import { type FastifyBaseLogger, type FastifyInstance, fastify, LogController } from 'fastify'
import {
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from 'fastify-type-provider-zod'
import { type Auth, accessControl } from './http/auth.ts'
import { continueLater } from './http/expect-continue.ts'
import { Downloads, type SlotTimes, Uploads } from './http/limits/admission.ts'
import type { LeastRate } from './http/limits/least-rate.ts'
import type { Limits } from './http/limits/limits.ts'
import { pressureOptions } from './http/limits/pressure.ts'
import { rateLimits } from './http/limits/rate-limits.ts'
import { refuseSlowBodies } from './http/limits/slow-bodies.ts'
import { createMetrics } from './http/metrics.ts'
import { refuseOtherSites, refuseTwoHosts, type Site } from './http/own-site.ts'
import { clientErrors } from './http/problems/client-error.ts'
import { notFound, refuseOtherMethods } from './http/problems/not-found.ts'
import { problemHandler } from './http/problems/problem.ts'
import { observeRequests } from './http/request-log.ts'
import { addSecurityHeaders } from './http/security-headers.ts'
import { multipartLimits } from './http/upload.ts'
import type { Registry } from './registry/registry.ts'
import { adminRoutes } from './rest/admin-routes.ts'
import { contentRoutes } from './rest/content-routes.ts'
import { modelRoutes } from './rest/model-routes.ts'
import { apiDescription } from './rest/openapi.ts'
import { publishRoutes } from './rest/publish-routes.ts'
import type { RouteDeps } from './rest/route-deps.ts'
import { PARAM_CHARACTERS } from './rest/schemas.ts'
import { serviceRoutes } from './rest/service-routes.ts'

export interface AppDeps {
  readonly registry: Registry
  readonly auth: Auth
  /** The hosts of the registry, which are checked if tokens are not required; on loopback if undefined. */
  readonly site?: Site | undefined
  readonly maxUploadBytes: number
  readonly logger?: FastifyBaseLogger | undefined
  /** True once the process has begun to shut down. */
  readonly draining?: (() => boolean) | undefined
  readonly timeouts?: Partial<Timeouts> | undefined
  readonly limits?: Partial<Limits> | undefined
}

/** How long a client may take, in milliseconds. */
interface Timeouts extends SlotTimes {
  /** Until the head of a request is complete. */
  readonly headersMs: number
  /** Between two bytes in either direction. Uploads have `leastRate` instead. */
  readonly idleMs: number
  /** Until the connection of a refused client ends, so that the client sees the answer. */
  readonly lingerMs: number
  readonly leastRate: LeastRate
}

const TIMEOUTS: Timeouts = {
  headersMs: 30_000,
  idleMs: 120_000,
  lingerMs: 1000,
  stalledMs: 5000,
  uploadWaitMs: 10_000,
  downloadWaitMs: 2000,
  leastRate: { bytesPerSecond: 16 * 1024, windowMs: 30_000 },
}

const LIMITS: Limits = { uploads: 16, downloads: 48, requestsPerMinute: 0, rssBytes: 0 }

const SITE: Site = { host: 'localhost', isLoopback: true }

/** Most bytes of a JSON body. */
const JSON_BYTES = 64 * 1024

/** The registry over HTTP: every plugin, every scope, every route. The caller listens, and closes the registry. */
export async function buildApp(deps: AppDeps): Promise<FastifyInstance> {
  const { registry, auth, site = SITE, maxUploadBytes, logger, draining = () => false } = deps
  const times = { ...TIMEOUTS, ...deps.timeouts }
  const { headersMs, idleMs, lingerMs, leastRate } = times
  const metrics = createMetrics()
  metrics.watch(() => registry.figures())
  const uploadLimits = { maxUploadBytes, leastRate }
  const limits = { ...LIMITS, ...deps.limits }
  const broken = clientErrors()
  const handleProblem = problemHandler({ lingerMs })

  const app = fastify({
    ...(logger && { loggerInstance: logger }),
    bodyLimit: JSON_BYTES,
    // An upload may take hours. Its head, its pauses and its rate have limits instead.
    requestTimeout: 0,
    connectionTimeout: idleMs,
    http: { headersTimeout: headersMs, connectionsCheckingInterval: headersMs / 2 },
    routerOptions: { maxParamLength: PARAM_CHARACTERS },
    exposeHeadRoutes: false,
    logController: new LogController({ disableRequestLogging: true }),
    // While draining, requests on open connections still get their proper answer, with `Connection: close`.
    return503OnClosing: false,
    clientErrorHandler: broken.handler,
    frameworkErrors: handleProblem,
  }).withTypeProvider<ZodTypeProvider>()
  app.setValidatorCompiler(validatorCompiler)
  app.setSerializerCompiler(serializerCompiler)
  app.setErrorHandler(handleProblem)
  app.setNotFoundHandler(notFound)
  broken.watch(app)
  observeRequests(app, metrics)
  addSecurityHeaders(app)
  refuseTwoHosts(app)
  if (auth.mode === 'none') refuseOtherSites(app, site)
  continueLater(app)
  refuseSlowBodies(app, leastRate)

  await app.register(underPressure, pressureOptions(limits))
  await app.register(rateLimit, { global: false })
  const rates = rateLimits(app, limits)
  const access = accessControl({ tokens: registry.tokens, auth, rates })
  const admission = { limits, times, ownerOf: access.ownerOf }
  const routes: RouteDeps = {
    registry,
    auth,
    access,
    metrics,
    uploadLimits,
    uploads: new Uploads(admission),
    downloads: new Downloads(admission),
    draining,
  }

  await app.register(swagger, apiDescription())
  const refuseMethods = refuseOtherMethods(app)
  serviceRoutes(app, routes)
  await app.register(async scope => {
    scope.addHook('onRequest', access.require('read'))
    modelRoutes(scope, routes)
    contentRoutes(scope, routes)
  })
  await app.register(async scope => {
    scope.addHook('onRequest', access.require('write'))
    await scope.register(multipart, multipartLimits(uploadLimits))
    publishRoutes(scope, routes)
  })
  await app.register(async scope => {
    scope.addHook('onRequest', access.require('admin'))
    adminRoutes(scope, routes)
  })
  refuseMethods()
  await app.register(swaggerUi, { routePrefix: '/docs' })
  return app
}
