import { LIMITS } from '../base/limits.ts'
import { complete, type Steps } from '../base/steps.ts'
import { headerBytes, LENGTH_BYTES, readHeaderSteps, refuse } from './header.ts'
import type { Layout } from './layout.ts'

/**
 * Reads the header of a safetensors file that arrives in pieces, and counts the bytes after it. The push that shows a fault throws it: a
 * fault in the header once that is complete, one in the length with the first byte too many.
 */
export class LayoutReader {
  /** The bytes of the header so far. It grows by doubling as they come, and never to a length that was only claimed. */
  #pending = new Uint8Array(4096)
  #size = 0
  #declared: number | null = null
  #layout: Layout | null = null

  /** Bytes of length word and header, as soon as the length word has come. */
  get headerBytes(): number | null {
    return this.#declared
  }

  /** The layout, as soon as the header is complete. */
  get layout(): Layout | null {
    return this.#layout
  }

  /** Takes the next bytes of the file; only those of the header are kept. @throws CodecError as {@link parseLayout} */
  push(chunk: Uint8Array): void {
    const steps = this.take(chunk)
    if (steps) complete(steps)
  }

  /**
   * As {@link push}, but if the bytes complete the header, it gives the steps that parse it, to be run before this reader is used again.
   * Null if nothing is left to do.
   */
  take(chunk: Uint8Array): Steps<void> | null {
    if (!this.#layout) this.#collect(chunk)
    this.#size += chunk.length
    if (this.#layout) {
      this.#checkSize(this.#layout)
      return null
    }
    if (this.#size < LENGTH_BYTES) return null
    this.#declared ??= headerBytes(this.#pending.subarray(0, LENGTH_BYTES), null)
    return this.#size < this.#declared ? null : this.#parse(this.#declared)
  }

  /** Ends the file. @throws CodecError `header-too-small`, `header-length`, `file-size` if it is short */
  end(): Layout {
    if (!this.#layout) {
      const held = this.#pending.subarray(0, Math.min(this.#size, this.#pending.length))
      const declared = headerBytes(held, this.#size)
      return refuse('header-length', `expected ${declared} bytes of header, got ${this.#size}`, 0)
    }
    const { size } = this.#layout
    if (this.#size < size) {
      refuse(
        'file-size',
        `the header describes a file of ${size} bytes, got ${this.#size}`,
        this.#size,
      )
    }
    return this.#layout
  }

  *#parse(declared: number): Steps<void> {
    const held = this.#pending
    const layout = yield* readHeaderSteps(held.length === declared ? held : held.slice(0, declared))
    this.#layout = layout
    this.#pending = new Uint8Array(0)
    this.#checkSize(layout)
  }

  #checkSize({ size }: Layout): void {
    if (this.#size <= size) return
    refuse('file-size', `the header describes a file of ${size} bytes, more came`, size)
  }

  #collect(chunk: Uint8Array): void {
    const most = this.#declared ?? LENGTH_BYTES + LIMITS.headerBytes
    const piece = chunk.subarray(0, most - this.#size)
    const needed = this.#size + piece.length
    if (needed > this.#pending.length) {
      const grown = new Uint8Array(Math.min(Math.max(needed, this.#pending.length * 2), most))
      grown.set(this.#pending.subarray(0, this.#size))
      this.#pending = grown
    }
    this.#pending.set(piece, this.#size)
  }
}
