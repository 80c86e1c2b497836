import type { IncomingMessage } from 'node:http'

/** The least that a client must send while the registry waits for it. */
export interface LeastRate {
  readonly bytesPerSecond: number
  /** Milliseconds over which the rate is taken. */
  readonly windowMs: number
}

const SAMPLES_PER_WINDOW = 10

/**
 * Calls `tooSlow` once if the client sends less than `rate` for a whole window. Time in which the registry itself holds the body
 * back does not count. Returns how to stop watching; it stops by itself at the end of the body.
 */
export function watchRate(
  raw: IncomingMessage,
  { bytesPerSecond, windowMs }: LeastRate,
  received: () => number,
  tooSlow: () => void,
): () => void {
  const least = (bytesPerSecond * windowMs) / 1000
  let since = performance.now()
  let mark = received()
  const timer = setInterval(() => {
    if (raw.complete) return clearInterval(timer)
    if (raw.isPaused() || received() - mark >= least) {
      since = performance.now()
      mark = received()
    } else if (performance.now() - since >= windowMs) {
      clearInterval(timer)
      tooSlow()
    }
  }, windowMs / SAMPLES_PER_WINDOW)
  return () => clearInterval(timer)
}
