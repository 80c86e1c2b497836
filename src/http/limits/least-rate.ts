import type { IncomingMessage } from 'node:http'
import { RegistryError } from '../../errors.ts'

/** The least that a client must send while the registry waits for it. */
export interface LeastRate {
  readonly bytesPerSecond: number
  /** Milliseconds over which the rate is measured. */
  readonly windowMs: number
}

const SAMPLES_PER_WINDOW = 100

/**
 * How long the registry has waited for a client that sends too little. Only time in which the registry could have read counts: not while it holds
 * the body back, nor while its event loop is blocked. Times are milliseconds of any monotonic clock.
 */
export class Patience {
  readonly #windowMs: number
  readonly #leastBytes: number
  readonly #sampleMs: number
  #paused = false
  #last: number
  #mark: number
  #waitedMs = 0
  #isDue = false

  constructor({ bytesPerSecond, windowMs }: LeastRate, now: number, received: number) {
    this.#windowMs = windowMs
    this.#leastBytes = (bytesPerSecond * windowMs) / 1000
    this.#sampleMs = windowMs / SAMPLES_PER_WINDOW
    this.#last = now
    this.#mark = received
  }

  /** From now on the registry holds the body back. */
  pause(now: number): void {
    this.#charge(now)
    this.#paused = true
  }

  /** The registry reads again. */
  resume(now: number): void {
    this.#charge(now)
    this.#paused = false
  }

  /**
   * Takes a sample, which is due every hundredth of the window: true if the client has sent less than the least for a whole window. Two samples in a
   * row must say so: between them the registry reads what arrived while its event loop was blocked.
   */
  isOver(now: number, received: number): boolean {
    this.#charge(now)
    if (received - this.#mark >= this.#leastBytes) {
      this.#mark = received
      this.#waitedMs = 0
    }
    const wasDue = this.#isDue
    this.#isDue = !this.#paused && this.#waitedMs >= this.#windowMs
    return wasDue && this.#isDue
  }

  #charge(now: number): void {
    if (!this.#paused) this.#waitedMs += Math.min(now - this.#last, this.#sampleMs)
    this.#last = now
  }
}

/**
 * Calls `tooSlow` once if the client sends less than `rate` for a whole window in which the registry could read: see {@link Patience}. Returns a
 * function that stops watching; the end of the body stops it too.
 */
export function watchRate(
  raw: IncomingMessage,
  rate: LeastRate,
  received: () => number,
  tooSlow: () => void,
): () => void {
  const patience = new Patience(rate, performance.now(), received())
  const onPause = () => patience.pause(performance.now())
  const onResume = () => patience.resume(performance.now())
  const stop = () => {
    clearInterval(timer)
    raw.off('pause', onPause).off('resume', onResume)
  }
  const timer = setInterval(() => {
    if (raw.complete) return stop()
    if (!patience.isOver(performance.now(), received())) return
    stop()
    tooSlow()
  }, rate.windowMs / SAMPLES_PER_WINDOW)
  raw.on('pause', onPause).on('resume', onResume)
  if (raw.isPaused()) onPause()
  return stop
}

/** The error for a client that {@link watchRate} found too slow. */
export function tooSlow({ bytesPerSecond, windowMs }: LeastRate): RegistryError {
  return new RegistryError(
    'upload-too-slow',
    `expected at least ${bytesPerSecond} bytes per second over ${windowMs / 1000} s`,
  )
}
