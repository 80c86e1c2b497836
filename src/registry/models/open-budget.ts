import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapStatistics } from 'node:v8'
import { RegistryError } from '../../errors.ts'

/** Milliseconds that a large request waits for memory before it is refused. */
const WAIT_MS = 60_000
/** Share of the budget up to which nothing waits, so that large models never hold up small ones. */
const SMALL_SHARE = 1 / 64

/** Largest share of the heap, and of the process's memory, that open models may take … */
const SHARE = 0.4
/** … and the most bytes, whatever those are. */
const MAX_BYTES = 1024 ** 3

/** Bytes that models may take in a process of `residentBytes`; 0 for one of any size. */
export function openBytesWithin(residentBytes: number): number {
  const heap = getHeapStatistics().heap_size_limit
  return Math.min(MAX_BYTES, SHARE * (residentBytes === 0 ? heap : Math.min(heap, residentBytes)))
}

/** The memory of one model of a lineage that everything built on it shares. */
export interface Layer {
  readonly bytes: number
  readonly parent: Layer | null
}

interface Waiter {
  readonly bytes: number
  readonly grant: () => void
}

/**
 * Bounds the estimated memory of all models that are open or being opened. Counts each layer once, however many models share it; closes unused
 * models to make room; large models wait until there is room.
 */
export class OpenBudget {
  readonly #most: number
  /** Closes one unused model; false if there is none. */
  readonly #giveUp: () => boolean
  readonly #users = new Map<Layer, number>()
  readonly #waiting: Waiter[] = []
  #used = 0

  constructor(most: number, giveUp: () => boolean) {
    this.#most = most
    this.#giveUp = giveUp
  }

  /** Bytes of all open models and reservations. */
  get used(): number {
    return this.#used
  }

  /** Counts `bytes` and the layers until {@link leave}. Closes unused models to make room. */
  enter(bytes: number, layer: Layer | null): void {
    this.#used += bytes
    for (let at = layer; at; at = at.parent) {
      const users = this.#users.get(at) ?? 0
      this.#users.set(at, users + 1)
      if (users > 0) break
      this.#used += at.bytes
    }
    this.#makeRoom(0)
  }

  leave(bytes: number, layer: Layer | null): void {
    this.#used -= bytes
    for (let at = layer; at; at = at.parent) {
      const users = this.#users.get(at)! - 1
      if (users > 0) {
        this.#users.set(at, users)
        break
      }
      this.#users.delete(at)
      this.#used -= at.bytes
    }
    this.#grant()
  }

  /** @throws RegistryError `lineage-too-large` for more bytes than the whole budget */
  check(bytes: number): void {
    const most = this.#most
    if (bytes <= most) return
    throw new RegistryError(
      'lineage-too-large',
      `expected a model that takes at most ${most} bytes of memory with all that it is built on, got ${bytes}`,
      { details: { expected: most, came: bytes } },
    )
  }

  /**
   * Reserves `bytes` until the result is disposed of; waits while others use too much. `besideBytes`: what the caller uses already.
   * Rejects `lineage-too-large` if both exceed the whole budget, `overloaded` after a wait that is too long, and with `signal.reason`.
   */
  async reserve(bytes: number, besideBytes = 0, signal?: AbortSignal): Promise<Disposable> {
    this.check(besideBytes + bytes)
    const isSmall = bytes <= this.#most * SMALL_SHARE
    if (isSmall || (this.#waiting.length === 0 && this.#makeRoom(bytes))) this.#used += bytes
    else await this.#wait(bytes, signal)
    return {
      [Symbol.dispose]: () => {
        this.#used -= bytes
        this.#grant()
      },
    }
  }

  async #wait(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    const done = new AbortController()
    const { promise, resolve } = Promise.withResolvers<void>()
    const waiter = { bytes, grant: resolve }
    this.#waiting.push(waiter)
    const ended = signal ? AbortSignal.any([signal, done.signal]) : done.signal
    try {
      await Promise.race([promise, sleep(WAIT_MS, undefined, { signal: ended }).then(busy)])
    } catch (error) {
      const place = this.#waiting.indexOf(waiter)
      if (place >= 0) this.#waiting.splice(place, 1)
      // It was granted just after the wait ended.
      else this.#used -= bytes
      // Smaller requests behind it may fit.
      this.#grant()
      signal?.throwIfAborted()
      throw error
    } finally {
      done.abort()
    }
  }

  /** Grants waiting requests in their order, as far as there is room. */
  #grant(): void {
    for (let next = this.#waiting[0]; next && this.#makeRoom(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#used += next.bytes
      next.grant()
    }
  }

  /** True once there is room for `bytes`. */
  #makeRoom(bytes: number): boolean {
    while (this.#used + bytes > this.#most) {
      if (!this.#giveUp()) return false
    }
    return true
  }
}

/** Bytes of a layer and of all below it. */
export function reachOf(layer: Layer | null): number {
  let bytes = 0
  for (let at = layer; at; at = at.parent) bytes += at.bytes
  return bytes
}

function busy(): never {
  throw new RegistryError('overloaded', 'other models take all memory that there is for models')
}
