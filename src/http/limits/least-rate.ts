import type { IncomingMessage } from 'node:http'
import { RegistryError } from '../../errors.ts'

/** The least that a client must send while the registry waits for it. */
export interface LeastRate {
  readonly bytesPerSecond: number
  /** Milliseconds over which the rate is taken. */
  readonly windowMs: number
}

const SAMPLES_PER_WINDOW = 100

/**
 * How long the registry has waited for a client that sends too little. Only time counts in which the registry could have read: not that
 * in which it holds the body back, nor that in which its event loop stands still. Times are milliseconds of any clock that goes forward.
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

  /** The registry holds the body back from now on. */
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
   * A sample, one in a hundredth of the window: true if the client has sent less than the least for a whole window. It takes two samples to
   * say so: what was sent while the event loop stood still is read between them.
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
 * Calls `tooSlow` once if the client sends less than `rate` for a whole window of time in which the registry could read: see
 * {@link Patience}. Returns how to stop watching; it stops by itself at the end of the body.
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

/** What a client is told that {@link watchRate} found too slow. */
export function tooSlow({ bytesPerSecond, windowMs }: LeastRate): RegistryError {
  return new RegistryError(
    'upload-too-slow',
    `expected at least ${bytesPerSecond} bytes per second over ${windowMs / 1000} s`,
  )
}
