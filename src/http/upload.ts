import type { Readable } from 'node:stream'
import type { Multipart } from '@fastify/multipart'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { z } from 'zod'
import { RegistryError } from '../errors.ts'
import type { UploadPart } from '../registry/registry.ts'
import { closeSignal } from './close-signal.ts'
import type { Uploads } from './limits/admission.ts'
import { type LeastRate, tooSlow, watchRate } from './limits/least-rate.ts'
import type { Metrics } from './metrics.ts'
import { invalid, toRegistryError } from './problems/problem.ts'

export interface UploadLimits {
  /** Most bytes of a request body. */
  readonly maxUploadBytes: number
  readonly leastRate: LeastRate
}

interface UploadDeps {
  readonly limits: UploadLimits
  readonly metrics: Metrics
  readonly uploads: Pick<Uploads, 'signalOf'>
}

/** Most files of an upload: shards of the largest models, and side files. */
const MAX_FILES = 10_000
/** Most fields of an upload, and most bytes of one. */
const MAX_FIELDS = 32
const FIELD_BYTES = 64 * 1024
/** Most bytes of a part that are buffered until the registry reads them. */
const AHEAD_BYTES = 256 * 1024

/** `logSerializers` of an upload route: at `trace`, @fastify/multipart would log the headers of a request, with its token. */
export const UPLOAD_LOG_SERIALIZERS = {
  busboyOptions: ({ headers: _headers, ...options }: Readonly<Record<string, unknown>>) => options,
}

/** Options of @fastify/multipart, whose defaults would silently cut files off at 1 MiB. */
export function multipartLimits({ maxUploadBytes }: UploadLimits) {
  return {
    // The registry checks paths; the default would keep only their last segment.
    preservePath: true,
    fileHwm: AHEAD_BYTES,
    limits: {
      fileSize: maxUploadBytes,
      files: MAX_FILES,
      fields: MAX_FIELDS,
      parts: MAX_FILES + MAX_FIELDS,
      fieldSize: FIELD_BYTES,
      headerPairs: 32,
    },
  }
}

/** An `onRequest` hook that refuses an upload by its head, before any of its body is asked for. */
export function checkUploadHead({ maxUploadBytes }: UploadLimits) {
  return async ({ headers }: FastifyRequest): Promise<void> => {
    const { 'content-type': type = 'none', 'content-encoding': encoding = 'identity' } = headers
    if (!/^multipart\/form-data *(;|$)/i.test(type)) {
      throw new RegistryError(
        'unsupported-media-type',
        `expected content type multipart/form-data, got ${type}`,
      )
    }
    if (encoding !== 'identity') {
      throw new RegistryError(
        'unsupported-media-type',
        `expected no content encoding, got ${encoding}`,
      )
    }
    if (Number(headers['content-length'] ?? 0) > maxUploadBytes) throw tooLarge(maxUploadBytes)
  }
}

/**
 * Reads and checks the fields of an upload, and hands them to `publish` with the file parts, which stream as `publish` reads them. Once `publish`
 * settles, the rest of the body is dropped. Rejects as `publish` does, or with `bad-request`, `bad-multipart`, `upload-aborted`,
 * `upload-too-large`, `upload-too-slow`.
 */
export async function receiveUpload<Fields extends z.ZodObject, Result>(
  request: FastifyRequest,
  reply: FastifyReply,
  fields: Fields,
  deps: UploadDeps,
  publish: (
    fields: z.output<Fields>,
    parts: AsyncIterable<UploadPart>,
    signal: AbortSignal,
  ) => Promise<Result>,
): Promise<Result> {
  const upload = new Upload(request, reply, deps)
  try {
    const { values, first } = await readFields(upload, Object.keys(fields.shape))
    const { data, error } = fields.safeParse(values)
    if (error) {
      const issues = error.issues.map(({ path, message }) => ({ path: path.join('.'), message }))
      throw invalid('form', issues)
    }
    return await publish(data, fileParts(upload, first), upload.signal)
  } catch (error) {
    // The reason of the abort, not the error that it caused further in.
    throw upload.signal.aborted ? upload.signal.reason : error
  } finally {
    upload.close()
  }
}

type FilePart = Extract<Multipart, { type: 'file' }>

/** The fields before the first file, by name, and that file. */
async function readFields(upload: Upload, known: readonly string[]) {
  const values: Record<string, unknown> = {}
  for (let part = await upload.next(); part !== null; part = await upload.next()) {
    if (part.type === 'file') return { values, first: part }
    const { fieldname, value, valueTruncated } = part
    if (!known.includes(fieldname)) {
      const list = known.join(', ')
      throw badForm(`unknown field ${JSON.stringify(fieldname)}; the fields are ${list}`)
    }
    if (fieldname in values) throw badForm(`field ${fieldname} was sent twice`)
    if (valueTruncated) throw badForm(`field ${fieldname}: expected at most ${FIELD_BYTES} bytes`)
    values[fieldname] = value
  }
  return { values, first: null }
}

/** The file parts of an upload, from `first` on. */
async function* fileParts(upload: Upload, first: FilePart | null): AsyncGenerator<UploadPart> {
  for (let part: Multipart | null = first; part !== null; part = await upload.next()) {
    const { fieldname } = part
    if (part.type === 'field') {
      throw badForm(`field ${JSON.stringify(fieldname)}: expected fields before files`)
    }
    // The types of Busboy promise a filename, but a part may have none.
    if (!part.filename) throw badForm(`part ${JSON.stringify(fieldname)}: expected a filename`)
    yield { field: fieldname, path: part.filename, body: upload.body(part) }
  }
}

/** The multipart body of one request, which ends early if the client leaves, exceeds a limit, or is too slow. */
class Upload {
  /** Aborts, with a RegistryError, when the upload cannot succeed any more. */
  readonly signal: AbortSignal
  readonly #request: FastifyRequest
  readonly #limits: UploadLimits
  readonly #metrics: Metrics
  readonly #parts: AsyncIterator<Multipart>
  readonly #aborted: Promise<never>
  readonly #stopWatch: () => void
  #file: Readable | null = null
  #received = 0

  constructor(
    request: FastifyRequest,
    reply: FastifyReply,
    { limits, metrics, uploads }: UploadDeps,
  ) {
    const { raw } = request
    const own = new AbortController()
    this.signal = AbortSignal.any([own.signal, closeSignal(reply), uploads.signalOf(request)])
    // The client may have left while its token was looked up; no event would report that any more.
    this.signal.throwIfAborted()
    this.#request = request
    this.#limits = limits
    this.#metrics = metrics
    this.#aborted = new Promise((_, reject) => {
      this.signal.addEventListener('abort', () => {
        this.#file?.destroy(this.signal.reason)
        reject(this.signal.reason)
      })
    })
    // It may reject while nothing awaits a part.
    this.#aborted.catch(() => {})
    this.#stopWatch = watchRate(
      raw,
      limits.leastRate,
      () => this.#received,
      () => own.abort(tooSlow(limits.leastRate)),
    )
    // The socket is also idle while the registry works; the client's rate is watched above.
    raw.socket.setTimeout(0)
    metrics.streams.inc({ direction: 'upload' })
    raw.on('data', chunk => this.#count(chunk.length, own))
    this.#parts = request.parts()
  }

  /** The next field or file, null at the end. Drops the rest of the file before it. */
  async next(): Promise<Multipart | null> {
    this.#file?.resume()
    this.#file = null
    try {
      const { value, done } = await Promise.race([this.#parts.next(), this.#aborted])
      if (done) return null
      if (value.type === 'file') this.#file = value.file
      return value
    } catch (error) {
      throw toUploadError(error)
    }
  }

  /** The bytes of a file part. Throws if it was cut off. */
  async *body({ file }: FilePart): AsyncGenerator<Uint8Array> {
    try {
      // Destroying the file would end the parsing of the whole body.
      for await (const chunk of file.iterator({ destroyOnReturn: false })) yield chunk
    } catch (error) {
      throw this.signal.aborted ? this.signal.reason : toUploadError(error)
    }
    if (file.truncated) throw tooLarge(this.#limits.maxUploadBytes)
  }

  /** Drops the rest of the body, up to the same limit. */
  close(): void {
    this.#stopWatch()
    this.#metrics.streams.dec({ direction: 'upload' })
    this.#file?.destroy()
    this.#request.raw.unpipe()
    this.#request.raw.resume()
  }

  #count(bytes: number, own: AbortController): void {
    this.#received += bytes
    this.#metrics.received.inc(bytes)
    if (this.#received <= this.#limits.maxUploadBytes) return
    if (own.signal.aborted) return
    own.abort(tooLarge(this.#limits.maxUploadBytes))
  }
}

/** An error of the multipart parser as a RegistryError: Fastify's errors have a code, those of Busboy do not. */
function toUploadError(error: unknown): RegistryError {
  if (error instanceof RegistryError) return error
  const { code = '', message } = error as NodeJS.ErrnoException
  if (code.startsWith('FST_')) return toRegistryError(error)
  if (code === 'ECONNRESET' || code === 'ERR_STREAM_PREMATURE_CLOSE') {
    return new RegistryError('upload-aborted', message, { cause: error })
  }
  return new RegistryError('bad-multipart', message, { cause: error })
}

function badForm(message: string): RegistryError {
  return invalid('form', [{ path: '', message }])
}

function tooLarge(maxUploadBytes: number): RegistryError {
  return new RegistryError(
    'upload-too-large',
    `expected an upload of at most ${maxUploadBytes} bytes`,
  )
}
