import { FRAME_BYTES } from '../../codec/base/limits.ts'
import type { LayoutTensor } from '../../codec/safetensors/layout.ts'
import { frameCount } from '../../codec/wdelta/v2/format.ts'

/** A frame of a tensor; `bytes` is null for a tensor without bytes, which has no frame. */
export interface CutFrame {
  readonly tensor: LayoutTensor
  readonly frame: number
  readonly bytes: Uint8Array | null
}

/** Cuts the bytes of a safetensors file, in pieces of any size, into frames. */
export class FrameCutter {
  /** Chunks that came before the layout was known. */
  #held: Uint8Array[] = []
  #skip = 0
  #tensors: readonly LayoutTensor[] = []
  #tensor = 0
  #frame = 0
  #open: Uint8Array | null = null
  #filled = 0

  /** Keeps a copy of a chunk that comes before the layout is known; {@link push} cuts it then. */
  hold(chunk: Uint8Array): void {
    this.#held.push(chunk.slice())
  }

  /** Sets the bytes before the first tensor, and the tensors, which follow each other. Called once, before the first {@link push}. */
  begin(headerBytes: number, tensors: readonly LayoutTensor[]): void {
    this.#skip = headerBytes
    this.#tensors = tensors
  }

  /** The frames that a chunk completes, each in memory of its own. */
  *push(chunk: Uint8Array): Generator<CutFrame> {
    const held = this.#held
    this.#held = []
    for (const piece of [...held, chunk]) {
      const skipped = Math.min(this.#skip, piece.length)
      this.#skip -= skipped
      yield* this.#cut(piece.subarray(skipped))
    }
  }

  *#cut(piece: Uint8Array): Generator<CutFrame> {
    let at = 0
    for (;;) {
      const tensor = this.#tensors[this.#tensor]
      // A tensor without bytes comes in its turn, also after the last byte.
      if (!tensor || this.#skip > 0) return
      const bytes = tensor.end - tensor.begin
      if (bytes === 0) {
        yield { tensor, frame: 0, bytes: null }
        this.#tensor++
        continue
      }
      if (at === piece.length) return
      const size = Math.min(FRAME_BYTES, bytes - this.#frame * FRAME_BYTES)
      this.#open ??= Buffer.allocUnsafeSlow(size)
      const taken = piece.subarray(at, at + size - this.#filled)
      this.#open.set(taken, this.#filled)
      at += taken.length
      this.#filled += taken.length
      if (this.#filled < size) return
      yield { tensor, frame: this.#frame, bytes: this.#open }
      this.#open = null
      this.#filled = 0
      this.#frame++
      if (this.#frame === frameCount(bytes)) {
        this.#tensor++
        this.#frame = 0
      }
    }
  }
}
