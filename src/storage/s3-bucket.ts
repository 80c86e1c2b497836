import type { S3Client } from '@aws-sdk/client-s3'
import { openS3Client, S3_TIMEOUTS, type S3Options, type S3Timeouts } from './s3-client.ts'

/** How long an operation that moves bytes may take, beside what any may: with a part of 16 MiB, 0.3 MB/s. */
const LONG_TIMES = 10

export interface AskOptions {
  readonly signal?: AbortSignal | undefined
  /** True for what moves many bytes, or makes the server do so. */
  readonly isLong?: boolean
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
  readonly #name: string
  readonly #prefix: string
  readonly timeouts: S3Timeouts

  constructor(options: S3Options) {
    this.#client = openS3Client(options)
    this.#name = options.bucket
    this.#prefix = options.prefix
    this.timeouts = { ...S3_TIMEOUTS, ...options.timeouts }
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
    { signal, isLong = false }: AskOptions,
    call: (client: S3Client, limits: CallLimits) => Promise<T>,
  ): Promise<T> {
    const { answerMs, totalMs } = this.timeouts
    const times = isLong ? LONG_TIMES : 1
    const deadline = AbortSignal.timeout(totalMs * times)
    const abortSignal = signal ? AbortSignal.any([signal, deadline]) : deadline
    try {
      return await call(this.#client, { abortSignal, requestTimeout: answerMs * times })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  }

  close(): void {
    this.#client.destroy()
  }
}
