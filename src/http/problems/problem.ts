import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod'
import { type ErrorCode, PROBLEMS, RegistryError } from '../../errors.ts'
import { linger } from './linger.ts'

/** A problem document of RFC 9457. `type` is `urn:wdelta:problem:` and the code: a name that cannot be fetched. */
interface Problem {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail?: string
  readonly code: ErrorCode
  readonly [member: string]: unknown
}

export const PROBLEM_TYPE = 'application/problem+json'

/** Seconds after which a client may try again what the registry could not do at the moment. */
export const RETRY_AFTER_SECONDS = 5

/** Headers that a handler may have set before it failed, and that would be wrong on a problem document. */
const ENTITY_HEADERS = [
  'accept-ranges',
  'content-disposition',
  'content-length',
  'content-range',
  'etag',
  'location',
  'repr-digest',
  'x-tensor-dtype',
  'x-tensor-shape',
]

/** Codes of Fastify and its plugins whose status alone would be misleading. */
const FOREIGN_CODES: Readonly<Record<string, ErrorCode>> = {
  FST_INVALID_JSON_FIELD_ERROR: 'bad-request',
  FST_MP_PREMATURE_CLOSE: 'upload-aborted',
  ECONNRESET: 'client-closed',
}

const STATUS_CODES: Readonly<Record<number, ErrorCode>> = {
  400: 'bad-request',
  404: 'not-found',
  405: 'method-not-allowed',
  413: 'upload-too-large',
  414: 'bad-request',
  415: 'unsupported-media-type',
}

/** The problem document of a {@link RegistryError}. That of a 5xx has no details of what went wrong inside. */
export function toProblem({ code, message, details }: RegistryError): Problem {
  const { status, title } = PROBLEMS[code]
  const head = { type: `urn:wdelta:problem:${code}`, title, status }
  if (status >= 500) return { ...head, code }
  return { ...details, ...head, detail: message, code }
}

/** Any error as a RegistryError: those of Fastify by their code and status, all others as `internal`. */
export function toRegistryError(error: unknown): RegistryError {
  if (error instanceof RegistryError) return error
  if (hasZodFastifySchemaValidationErrors(error)) {
    const issues = error.validation.map(({ instancePath, message = '' }) => ({
      path: instancePath.slice(1),
      message,
    }))
    return invalid(error.validationContext ?? 'request', issues)
  }
  const { code = '', statusCode = 500, message } = (error ?? {}) as Partial<ForeignError>
  const known = FOREIGN_CODES[code] ?? STATUS_CODES[statusCode]
  return new RegistryError(known ?? 'internal', message ?? String(error), { cause: error })
}

interface ForeignError extends Error {
  readonly code: string
  readonly statusCode: number
}

/** `bad-request` for faults in `where` (`querystring`, `form`, …), with one entry for each. */
export function invalid(
  where: string,
  issues: readonly { readonly path: string; readonly message: string }[],
): RegistryError {
  const text = issues.map(({ path, message }) => (path === '' ? message : `${path}: ${message}`))
  return new RegistryError('bad-request', `${where}: ${text.join('; ')}`, { details: { issues } })
}

/**
 * The error handler: the only writer of problem documents. If the request's body is still arriving, the connection ends after the answer, at
 * most `lingerMs` milliseconds later, so that the client sees the answer first.
 */
export function problemHandler({ lingerMs }: { lingerMs: number }) {
  return (thrown: unknown, request: FastifyRequest, reply: FastifyReply) => {
    const error = toRegistryError(thrown)
    const problem = toProblem(error)
    if (problem.status >= 500) request.log.error({ err: error }, error.code)
    else request.log.debug({ code: error.code, detail: error.message }, 'refused')
    for (const name of ENTITY_HEADERS) reply.removeHeader(name)
    reply.code(problem.status).headers(problemHeaders(error))
    const body = Buffer.from(JSON.stringify(problem))
    if (!isArriving(request.raw)) return reply.send(body)
    reply.header('connection', 'close').header('content-length', body.length)
    return reply.send(Readable.from(answerThenLinger(body, request.raw, lingerMs)))
  }
}

function problemHeaders({ code, details }: RegistryError): Record<string, string> {
  const headers: Record<string, string> = {
    'content-type': PROBLEM_TYPE,
    'cache-control': 'no-store',
    // The hook that sets it has not run for a request that is refused early.
    'x-content-type-options': 'nosniff',
  }
  const { status } = PROBLEMS[code]
  const { allow, size, retryAfter = RETRY_AFTER_SECONDS } = details
  if (status === 401) headers['www-authenticate'] = 'Bearer realm="wdelta"'
  if (code === 'forbidden') {
    headers['www-authenticate'] = 'Bearer realm="wdelta", error="insufficient_scope"'
  }
  if (status === 429 || status === 503) headers['retry-after'] = String(retryAfter)
  if (code === 'range-not-satisfiable') headers['content-range'] = `bytes */${size}`
  return { ...headers, ...(code === 'method-not-allowed' && { allow: String(allow) }) }
}

/** True while a body that the client announced has not been received in full. */
export function isArriving({ complete, headers }: IncomingMessage): boolean {
  if (complete) return false
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

async function* answerThenLinger(body: Buffer, raw: IncomingMessage, lingerMs: number) {
  yield body
  await linger(raw, lingerMs)
}
