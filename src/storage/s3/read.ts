import type { Readable } from 'node:stream'
import { GetObjectCommand } from '@aws-sdk/client-s3'
import type { ByteRange } from '../../codec/base/ranges.ts'
import { RegistryError } from '../../errors.ts'
import type { Bucket } from './bucket.ts'
import { isBeyondEnd, isMissing, translateS3Error } from './errors.ts'

/** Most answers in a row without a new byte, before the read is given up. */
const MAX_EMPTY_READS = 4
/** Least rate of a whole read, bytes per second: a slower one fails, so that the caller can try again or report it. */
const MIN_BYTES_PER_SECOND = 256 * 1024
/** Longest delay of a timer, milliseconds. */
const LONGEST_MS = 2 ** 31 - 1

/**
 * Exactly the bytes of a range of an object, as `BlobStore.read` gives them. A cut body is resumed where it stopped, if the object is still the same.
 * Rejects with RegistryError: `blob-missing`, `blob-short`, `storage-unavailable`, `storage-failed`; or with `signal.reason`.
 */
export async function readRange(
  bucket: Bucket,
  key: string,
  { start, end }: ByteRange,
  signal?: AbortSignal,
  into?: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end < start) {
    throw new RegistryError('storage-failed', `blob ${key} has no bytes ${start}..${end}`)
  }
  signal?.throwIfAborted()
  const limitMs = bucket.timeouts.totalMs + ((end - start) / MIN_BYTES_PER_SECOND) * 1000
  const deadline = AbortSignal.timeout(Math.min(Math.ceil(limitMs), LONGEST_MS))
  const both = signal ? AbortSignal.any([signal, deadline]) : deadline
  const reading = new Reading(bucket, key, { start, end }, into)
  try {
    for (let fruitless = 0; reading.filled < end - start; ) {
      const before = reading.filled
      await reading.go(both)
      fruitless = reading.filled > before ? 0 : fruitless + 1
      if (fruitless > MAX_EMPTY_READS) throw reading.cut
    }
    return reading.bytes
  } catch (error) {
    signal?.throwIfAborted()
    if (isMissing(error)) {
      throw new RegistryError('blob-missing', `${key} is not in the store`, { cause: error })
    }
    throw translateS3Error(error, `blob ${key}`)
  }
}

class Reading {
  readonly #bucket: Bucket
  readonly #key: string
  readonly #range: ByteRange
  readonly #into: Uint8Array<ArrayBuffer> | undefined
  #etag: string | undefined
  /** Empty until the server has answered, then as long as the range: a read that is refused allocates nothing. */
  bytes: Uint8Array<ArrayBuffer>
  filled = 0
  /** Why the last body ended. */
  cut: unknown = null

  constructor(bucket: Bucket, key: string, range: ByteRange, into?: Uint8Array<ArrayBuffer>) {
    this.#bucket = bucket
    this.#key = key
    this.#range = range
    this.#into = into
    this.bytes = into?.subarray(0, 0) ?? new Uint8Array(0)
  }

  /** Reads one body, as far as it goes. Rejects if another request would not help. */
  async go(signal: AbortSignal): Promise<void> {
    const { start, end } = this.#range
    const body = await this.#open(start + this.filled, signal)
    if (!body) return
    if (this.bytes.length === 0) {
      const size = end - start
      this.bytes =
        this.#into?.subarray(0, size) ?? new Uint8Array(Buffer.allocUnsafeSlow(size).buffer)
    }
    const stop = () => body.destroy(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    try {
      if (signal.aborted) stop()
      for await (const chunk of body as AsyncIterable<Uint8Array>) {
        if (chunk.length > this.bytes.length - this.filled)
          throw this.#wrong('more bytes than that')
        this.bytes.set(chunk, this.filled)
        this.filled += chunk.length
      }
      this.cut = this.#wrong('fewer bytes than that')
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof RegistryError) throw error
      this.cut = error
    } finally {
      signal.removeEventListener('abort', stop)
      // A body that is not read keeps its connection for ever.
      body.destroy()
    }
  }

  /** Null, with the reason in `cut`, for an answer that is not this range, such as a proxy's page. */
  async #open(from: number, signal: AbortSignal): Promise<Readable | null> {
    const to = this.#range.end
    const command = new GetObjectCommand({
      ...this.#bucket.at(this.#key),
      Range: `bytes=${from}-${to - 1}`,
      ...(this.#etag !== undefined && { IfMatch: this.#etag }),
    })
    const answer = await this.#bucket
      .ask({ signal }, (client, limits) => client.send(command, limits))
      .catch(error => {
        if (isBeyondEnd(error)) throw this.#short(from, error)
        throw error
      })
    const body = answer.Body as Readable
    const [, first, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(answer.ContentRange ?? '') ?? []
    if (Number(first) !== from) {
      body.destroy()
      this.cut = this.#wrong(answer.ContentRange ?? 'no range')
      return null
    }
    if (Number(total) < to) {
      body.destroy()
      throw this.#short(Number(total))
    }
    this.#etag ??= answer.ETag
    return body
  }

  #short(end: number, cause?: unknown): RegistryError {
    const message = `blob ${this.#key}: expected bytes up to ${this.#range.end}, it ends at or before ${end}`
    return new RegistryError('blob-short', message, { cause })
  }

  #wrong(got: string): RegistryError {
    const { start, end } = this.#range
    const message = `blob ${this.#key}: asked for bytes ${start}..${end}, got ${got}`
    return new RegistryError('storage-unavailable', message)
  }
}
