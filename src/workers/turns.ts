import type { Steps } from '../codec/base/steps.ts'

/** Milliseconds that one turn may take before the event loop gets its own. */
const TURN_MS = 8

/** Takes the next turn of a computation; false when that is over. */
type Turn = () => boolean

/** Computations that wait for their next turn; the first of them is next. */
const waiting: Turn[] = []

/**
 * Runs a long computation in this thread without holding its event loop: in turns of a few milliseconds, one turn in each iteration of the
 * loop, whichever of the computations under way it belongs to. A short one is over before this returns to the caller's first `await`.
 * Rejects with what the steps throw, or with `signal.reason` when that aborts; the steps are then returned.
 */
export function inTurns<T>(steps: Steps<T>, signal?: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const turn: Turn = () => {
      try {
        signal?.throwIfAborted()
        const until = performance.now() + TURN_MS
        do {
          const { done, value } = steps.next()
          if (!done) continue
          resolve(value)
          return false
        } while (performance.now() < until)
        return true
      } catch (error) {
        steps.return(undefined as never)
        reject(error)
        return false
      }
    }
    if (waiting.length === 0 && !turn()) return
    waiting.push(turn)
    if (waiting.length === 1) setImmediate(next)
  })
}

/** Gives a reader its next bytes. What is long about it, as parsing a header that they complete, is done in turns before this resolves. */
export async function takeInTurns(
  reader: { take(chunk: Uint8Array): Steps<void> | null },
  chunk: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  const steps = reader.take(chunk)
  if (steps) await inTurns(steps, signal)
}

function next(): void {
  const turn = waiting.shift()!
  if (turn()) waiting.push(turn)
  if (waiting.length > 0) setImmediate(next)
}
