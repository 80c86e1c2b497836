import type { Steps } from '../codec/base/steps.ts'

/** Milliseconds after which a turn ends, so that the event loop gets on. */
const TURN_MS = 8

/** Takes a computation's next turn; false once the computation is over. */
type Turn = () => boolean

/** Computations that wait for their next turn, the next one first. */
const waiting: Turn[] = []

/**
 * Runs a long computation in this thread without holding its event loop: in turns of a few milliseconds. Each iteration of the loop takes one turn
 * of one of the computations under way; if there are no others, a short one is over when this function returns. Rejects with what the steps throw,
 * or with `signal.reason` if that aborts, which ends the steps.
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

/**
 * Runs `work` in a turn of its own, never at once: however many callers come in one iteration of the event loop, it gets on between two of them.
 * Rejects with what `work` throws.
 */
export function inOneTurn<T>(work: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    waiting.push(() => {
      try {
        resolve(work())
      } catch (error) {
        reject(error)
      }
      return false
    })
    if (waiting.length === 1) setImmediate(next)
  })
}

/** Gives a reader its next bytes. Long work, such as parsing a header that they complete, is done in turns before this resolves. */
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
