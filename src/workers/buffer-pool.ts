import { FRAME_BYTES } from '../codec/base/limits.ts'
import { BuffersOutError } from './errors.ts'

/** Most buffers of a pool, if its user names no other number: enough for a few streams at once. */
const MAX_BUFFERS = 128
/** Idle buffers that are not counted as spare: a few fast streams need them again at once. */
const MAX_IDLE = 16
/** Most milliseconds that a stream waits for a buffer. */
const MAX_WAIT_MS = 30_000

/** The memory of one chunk, which all threads share. */
export type ChunkBuffer = Uint8Array<SharedArrayBuffer>

/**
 * Buffers of FRAME_BYTES bytes into which workers write chunks of streams, and which are used again once a chunk is sent. A fresh buffer costs as
 * much in page faults as what is written to it, and a dropped one lives until each thread that has seen it has collected its garbage. So there are
 * at most `max` of them, and a taker waits for one that is given back, first come first served.
 */
export class BufferPool {
  readonly #max: number
  readonly #maxWaitMs: number
  readonly #free: SharedArrayBuffer[] = []
  readonly #out = new Set<SharedArrayBuffer>()
  readonly #waiting = new Set<(buffer: SharedArrayBuffer) => void>()
  #allocated = 0

  /** `max`: most buffers. `maxWaitMs`: most milliseconds that a taker waits for one. */
  constructor(max = MAX_BUFFERS, maxWaitMs = MAX_WAIT_MS) {
    this.#max = max
    this.#maxWaitMs = maxWaitMs
  }

  /** Buffers that are taken and not given back. */
  get out(): number {
    return this.#out.size
  }

  /** Buffers that were allocated since the pool was made. */
  get allocated(): number {
    return this.#allocated
  }

  /** Bytes of the buffers that are not out, beyond what a few streams need: left from a time of many streams. */
  get spareBytes(): number {
    return Math.max(0, this.#free.length - MAX_IDLE) * FRAME_BYTES
  }

  /**
   * A buffer of `size` bytes, at most FRAME_BYTES, with any content. Rejects with `signal.reason` if that aborts first, and with BuffersOutError if
   * no buffer is given back in time.
   */
  async take(size: number, signal?: AbortSignal): Promise<ChunkBuffer> {
    signal?.throwIfAborted()
    const buffer = this.#free.pop() ?? this.#allocate() ?? (await this.#wait(signal))
    this.#out.add(buffer)
    return new Uint8Array(buffer, 0, size)
  }

  /** Gives a buffer back, once, when no thread uses it any more. @throws Error for a buffer that is not out */
  give({ buffer }: ChunkBuffer): void {
    if (!this.#out.delete(buffer)) throw new Error('a buffer was given back that is not out')
    const [next] = this.#waiting
    if (!next) {
      this.#free.push(buffer)
      return
    }
    // Out again at once: no other taker may have it before the one that waited goes on.
    this.#out.add(buffer)
    next(buffer)
  }

  /** Drops the buffers that are not out. Their memory is freed once all threads have collected their garbage. */
  trim(): void {
    this.#free.length = 0
  }

  #allocate(): SharedArrayBuffer | null {
    if (this.#out.size >= this.#max) return null
    this.#allocated++
    return new SharedArrayBuffer(FRAME_BYTES)
  }

  #wait(signal: AbortSignal | undefined): Promise<SharedArrayBuffer> {
    const { promise, resolve, reject } = Promise.withResolvers<SharedArrayBuffer>()
    const leave = () => {
      this.#waiting.delete(taken)
      signal?.removeEventListener('abort', onAbort)
      clearTimeout(timer)
    }
    const taken = (buffer: SharedArrayBuffer) => {
      leave()
      resolve(buffer)
    }
    const onAbort = () => {
      leave()
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      leave()
      reject(new BuffersOutError(`${this.#max} buffers of ${FRAME_BYTES} bytes are all in use`))
    }, this.#maxWaitMs)
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#waiting.add(taken)
    return promise
  }
}
