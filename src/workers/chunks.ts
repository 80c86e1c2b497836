import { FRAME_BYTES } from '../codec/index.ts'

/** Buffers that wait to be used again: what a few fast streams have under way. */
const KEPT = 16

/**
 * Memory that workers write chunks of streams into, and that is used again once they are sent: a fresh buffer costs as much in page faults as
 * what is written to it. Shared by all threads, so that nothing is handed over.
 */
export class Chunks {
  readonly #free: SharedArrayBuffer[] = []

  /** Room for `size` bytes; what it holds is anything. */
  take(size: number): Uint8Array<SharedArrayBuffer> {
    // Only a header is as long as that, of a model with very many tensors.
    if (size > FRAME_BYTES) return new Uint8Array(new SharedArrayBuffer(size))
    return new Uint8Array(this.#free.pop() ?? new SharedArrayBuffer(FRAME_BYTES), 0, size)
  }

  /** Gives back what was taken, once no thread uses it. */
  give({ buffer }: Uint8Array<SharedArrayBuffer>): void {
    if (buffer.byteLength === FRAME_BYTES && this.#free.length < KEPT) this.#free.push(buffer)
  }
}
