import type { S3Client } from '@aws-sdk/client-s3'
import { openS3Client, S3_TIMEOUTS, type S3Options, type S3Timeouts } from './client.ts'

/** Factor on the time limits of an operation that moves bytes: at 10, a part of 16 MiB needs 0.3 MB/s. */
const BYTES_TIMES = 10

interface AskOptions {
  readonly signal?: AbortSignal | undefined
  /** Why the operation may take long: it moves many bytes, or the server works and sends nothing meanwhile. */
  readonly long?: 'bytes' | 'work'
}

/** The limits of one call, as options of the SDK. */
interface CallLimits {
  readonly abortSignal: AbortSignal
  /** Milliseconds until the head of the answer. */
  readonly requestTimeout: number
}

/** One bucket: the names of its objects, and a time limit for every request to it. */
export class Bucket {
  readonly #client: S3Client
  /** For requests with long work in the server, during which no byte comes. */
  readonly #patient: S3Client
  readonly #name: string
  readonly #prefix: string
  readonly timeouts: S3Timeouts

  constructor(options: S3Options) {
    this.timeouts = { ...S3_TIMEOUTS, ...options.timeouts }
    this.#client = openS3Client(options)
    const idleMs = this.timeouts.workMs
    this.#patient = openS3Client({ ...options, timeouts: { ...this.timeouts, idleMs } })
    this.#name = options.bucket
    this.#prefix = options.prefix
  }

  get name(): string {
    return this.#name
  }

  /** The object of a blob. */
  at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#name, Key: this.#prefix + key }
  }

  /** The start of the names of the objects whose blobs' keys begin with `prefix`. */
  prefixed(prefix: string): string {
    return this.#prefix + prefix
  }

  /** The key of a blob from the name of its object; null for an object that is not ours. */
  keyOf(name: string): string | null {
    return name.startsWith(this.#prefix) ? name.slice(this.#prefix.length) : null
  }

  /** Sends a request; the SDK repeats it if that may help. Rejects as the SDK does, or with `signal.reason`. */
  async ask<T>(
    { signal, long }: AskOptions,
    call: (client: S3Client, limits: CallLimits) => Promise<T>,
  ): Promise<T> {
    const client = long === 'work' ? this.#patient : this.#client
    const { requestTimeout, limitMs } = this.#limits(long)
    const deadline = AbortSignal.timeout(limitMs)
    const abortSignal = signal ? AbortSignal.any([signal, deadline]) : deadline
    try {
      return await call(client, { abortSignal, requestTimeout })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  }

  #limits(long: AskOptions['long']): { requestTimeout: number; limitMs: number } {
    const { answerMs, totalMs, workMs } = this.timeouts
    if (long === 'work') return { requestTimeout: workMs, limitMs: workMs + totalMs }
    const times = long === 'bytes' ? BYTES_TIMES : 1
    return { requestTimeout: answerMs * times, limitMs: totalMs * times }
  }

  close(): void {
    this.#client.destroy()
    this.#patient.destroy()
  }
}
