import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Content, isModelId } from '../registry/registry.ts'
import { closeSignal } from './close-signal.ts'
import type { Downloads } from './limits/admission.ts'
import type { Metrics } from './metrics.ts'
import { selectRange } from './range.ts'
import { exactly, writeBody } from './write-body.ts'

interface ContentOptions {
  readonly metrics: Metrics
  readonly downloads: Downloads
  /** Value of Cache-Control. */
  readonly cacheControl: string
}

/**
 * Answers a GET with content or a range of it, and a HEAD with its headers and no work. The first bytes are made before the headers
 * are sent, so that an early failure becomes a problem document; a later one, or a wrong number of bytes, cuts the connection. Reading
 * stops when the client is gone.
 */
export async function sendContent(
  request: FastifyRequest,
  reply: FastifyReply,
  content: Content,
  { metrics, downloads, cacheControl }: ContentOptions,
): Promise<FastifyReply> {
  const { size, etag } = content
  const selection = selectRange(request.method, request.headers, content)
  const caching = { etag: `"${etag}"`, 'cache-control': cacheControl, 'accept-ranges': 'bytes' }
  if (selection.kind === 'not-modified') return reply.code(304).headers(caching).send()
  const { start, end } = selection.kind === 'part' ? selection : { start: 0, end: size }
  const headers = { ...caching, ...entityHeaders(content), 'content-length': end - start }
  if (request.method === 'HEAD') return reply.headers(headers).send()
  const signal = closeSignal(reply)
  // The event of a response that has closed is gone.
  signal.throwIfAborted()
  await downloads.enter(request, reply, end - start)
  metrics.streams.inc({ direction: 'download' })
  reply.raw.once('close', () => metrics.streams.dec({ direction: 'download' }))
  const chunks = content.open({ start, end }, signal)[Symbol.asyncIterator]()
  // Also while a chunk is being made.
  signal.addEventListener('abort', () => void chunks.return?.().catch(() => {}), { once: true })
  const body = exactly(end - start, chunks)
  const first = await body.next()
  if (selection.kind === 'part') {
    reply.code(206).header('content-range', `bytes ${start}-${end - 1}/${size}`)
  }
  reply.headers(headers).hijack()
  reply.raw.writeHead(reply.statusCode, reply.getHeaders() as OutgoingHttpHeaders)
  try {
    await writeBody(reply.raw, first, body, bytes => metrics.sent.inc(bytes))
  } catch (error) {
    request.log.error(error, 'the download was cut')
  }
  return reply
}

/** Value of Cache-Control for content under `/models/<ref>`: that of an id never changes, that of a revision does. */
export function cacheControlOf(ref: string, isPublic: boolean): string {
  if (!isModelId(ref)) return 'no-cache'
  return `${isPublic ? 'public' : 'private'}, max-age=31536000, immutable`
}

function entityHeaders({ mediaType, filename, sha256 }: Content): Record<string, string> {
  return {
    'content-type': mediaType,
    'content-disposition': contentDisposition(filename),
    ...(sha256 !== null && {
      'repr-digest': `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`,
    }),
  }
}

/** RFC 6266: an ASCII name for old clients, and the real one in UTF-8 if it differs. */
function contentDisposition(filename: string): string {
  const plain = filename.replace(/[^\x20-\x7e]|["\\%]/g, '_')
  if (plain === filename) return `attachment; filename="${plain}"`
  const encoded = encodeURIComponent(filename.toWellFormed()).replace(
    /['()*]/g,
    character => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  )
  return `attachment; filename="${plain}"; filename*=UTF-8''${encoded}`
}
