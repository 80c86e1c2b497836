import type { S3Client } from '@aws-sdk/client-s3'
import { openS3Client, S3_TIMEOUTS, type S3Options, type S3Timeouts } from './client.ts'

/** How many times as long as any other an operation that moves bytes may take: with a part of 16 MiB, 0.3 MB/s. */
const BYTES_TIMES = 10

interface AskOptions {
  readonly signal?: AbortSignal | undefined
  /** What may take long: to move many bytes, or the work of the server, which says nothing meanwhile. */
  readonly long?: 'bytes' | 'work'
}

/** What the SDK takes beside a command. */
interface CallLimits {
  readonly abortSignal: AbortSignal
  /** Milliseconds to the head of the answer. */
  readonly requestTimeout: number
}

/** One bucket, the keys in it, and a limit in time to everything that is asked of it. */
export class Bucket {
  readonly #client: S3Client
  /** For the server's work: that no byte comes means nothing then. */
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

  /** Where a blob is. */
  at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#name, Key: this.#prefix + key }
  }

  /** What names of objects of blobs with this prefix begin with. */
  prefixed(prefix: string): string {
    return this.#prefix + prefix
  }

  /** The key of a blob from the name of its object; null for an object of somebody else. */
  keyOf(name: string): string | null {
    return name.startsWith(this.#prefix) ? name.slice(this.#prefix.length) : null
  }

  /** Asks the server, again where that may help. Rejects with what the SDK does, or with `signal.reason`. */
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
