import { complete, type Steps } from '../base/steps.ts'
import type { ArrayCheck } from './v1/checks.ts'

/**
 * What a parser waits for: the next `take` bytes as one view; the next `stream` bytes, at least 1, passed to `to`; or the end of `steps`, while
 * the view of the last `take` stays valid.
 */
type Want =
  | { readonly take: number }
  | { readonly stream: number; readonly to: ArrayCheck }
  | { readonly steps: Steps<void> }

/**
 * A parser written as a generator that never ends. It yields what it wants, and is resumed with the bytes of a `take`, a view that is valid
 * until it yields the next one. What it is resumed with after other wants means nothing.
 */
export type Program = Generator<Want, never, Uint8Array>

/** Least bytes of the buffer that joins the pieces of a `take`. */
const PENDING_BYTES = 1024
const NO_BYTES = new Uint8Array(0)

/**
 * Runs a {@link Program} over bytes that are pushed in pieces of any size. It holds the bytes of one `take` at most, and of those only what has
 * come: a length that was only claimed allocates nothing.
 */
export class PushCursor {
  readonly #program: Program
  #want: Exclude<Want, { steps: unknown }> = { take: 0 }
  /** Bytes of a `take` that came in earlier pieces; what follows the first `#held` is free. */
  #pending = new Uint8Array(PENDING_BYTES)
  #held = 0
  #left = 0
  #position = 0

  /** Starts the program, which runs up to its first want. The program may ask this cursor for its position. */
  constructor(program: (cursor: PushCursor) => Program) {
    this.#program = program(this)
    complete(this.#resume(NO_BYTES))
  }

  /** Bytes taken so far, and so the offset at which the program's next want begins. */
  get position(): number {
    return this.#position
  }

  /** Runs the program as far as the bytes go. They must not change until the steps have ended. Throws what the program throws. */
  *push(bytes: Uint8Array): Steps<void> {
    const start = this.#position
    let at = 0
    while (at < bytes.length) {
      const piece = bytes.subarray(at, at + this.#left)
      const offset = start + at
      at += piece.length
      this.#position = start + at
      this.#left -= piece.length
      if ('to' in this.#want) {
        this.#want.to.push(piece, offset)
        if (this.#left === 0) yield* this.#resume(piece)
      } else if (this.#left > 0) {
        this.#hold(piece)
      } else if (this.#held === 0) {
        yield* this.#resume(piece)
      } else {
        this.#hold(piece)
        const whole = this.#pending.subarray(0, this.#held)
        this.#held = 0
        if (whole.length > PENDING_BYTES) this.#pending = new Uint8Array(PENDING_BYTES)
        yield* this.#resume(whole)
      }
    }
  }

  *#resume(bytes: Uint8Array): Steps<void> {
    let want = this.#program.next(bytes).value
    while ('steps' in want) {
      yield* want.steps
      want = this.#program.next(NO_BYTES).value
    }
    this.#want = want
    this.#left = 'to' in want ? want.stream : want.take
  }

  #hold(piece: Uint8Array): void {
    const needed = this.#held + piece.length
    if (needed > this.#pending.length) {
      const most = needed + this.#left
      const grown = new Uint8Array(Math.min(Math.max(needed, this.#pending.length * 2), most))
      grown.set(this.#pending.subarray(0, this.#held))
      this.#pending = grown
    }
    this.#pending.set(piece, this.#held)
    this.#held = needed
  }
}
