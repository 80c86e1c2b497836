import { itemBytes } from '../../codec/base/dtypes.ts'
import type { DeltaFrameParts, Piece } from '../tasks.ts'

/** Most buffers that are kept for the next task: fresh memory costs as much in page faults as the decoding into it. */
const MAX_SPARE = 2

/** A frame that is made, and the number of times that it is still needed. */
interface Made {
  readonly bytes: Uint8Array
  uses: number
}

/**
 * The delta frames of a task that are made before the frames that need them: those that several need, and those that are cast to another width. All
 * others are turned one into the next, in the memory of the last. The deepest are made first, so that few are held at once however long the lineage.
 */
export class SharedFrames {
  readonly #made = new Map<DeltaFrameParts, Made>()
  readonly #spare: Uint8Array<ArrayBuffer>[] = []

  /** Makes the frames that `pieces` share. `decode` decodes a frame into memory of its size; throws what it throws. */
  make(pieces: readonly Piece[], decode: (frame: DeltaFrameParts, into: Uint8Array) => void): void {
    this.#dropAll()
    const survey = new Survey()
    survey.visit(pieces, false)
    for (const frame of survey.order) {
      const uses = survey.uses.get(frame)!
      if (uses === 1 && !survey.apart.has(frame)) continue
      const bytes = this.#take(frame.size)
      decode(frame, bytes)
      this.#made.set(frame, { bytes, uses })
    }
  }

  /** Frees all memory. */
  trim(): void {
    this.#made.clear()
    this.#spare.length = 0
  }

  has(frame: DeltaFrameParts): boolean {
    return this.#made.has(frame)
  }

  /** The bytes of a frame that was made, valid until the next frame is made; undefined for other frames. To be asked once for each use. */
  use(frame: DeltaFrameParts): Uint8Array | undefined {
    const made = this.#made.get(frame)
    if (!made) return undefined
    made.uses--
    if (made.uses === 0) this.#drop(frame, made)
    return made.bytes
  }

  #take(size: number): Uint8Array {
    const i = this.#spare.findIndex(({ length }) => length >= size)
    if (i < 0) return new Uint8Array(size)
    return this.#spare.splice(i, 1)[0]!.subarray(0, size)
  }

  #drop(frame: DeltaFrameParts, { bytes }: Made): void {
    this.#made.delete(frame)
    this.#spare.push(new Uint8Array(bytes.buffer as ArrayBuffer))
  }

  /** Drops what a failed task left, and all but MAX_SPARE buffers: a task with a deep lineage needs more of them than others. */
  #dropAll(): void {
    for (const [frame, made] of this.#made) this.#drop(frame, made)
    this.#spare.length = Math.min(this.#spare.length, MAX_SPARE)
  }
}

/** Finds the frames that some pieces are made from, each after those that it needs itself. */
class Survey {
  readonly order: DeltaFrameParts[] = []
  readonly uses = new Map<DeltaFrameParts, number>()
  /** Frames that cannot be turned into the frame that needs them, because it has another width or there are steps in float32 between. */
  readonly apart = new Set<DeltaFrameParts>()

  visit(pieces: readonly Piece[], isApart: boolean, isNested = false): void {
    for (const piece of pieces) {
      if (piece.kind === 'frame') this.visit(piece.source, isNested, isNested)
      else if (piece.kind === 'lossless') this.#count(piece.frame, isApart)
    }
  }

  #count(frame: DeltaFrameParts, isApart: boolean): void {
    const uses = this.uses.get(frame) ?? 0
    this.uses.set(frame, uses + 1)
    if (isApart) this.apart.add(frame)
    if (uses > 0) return
    const { prediction, dtype } = frame
    if (prediction) {
      const widens = prediction.dtype !== dtype && itemBytes(prediction.dtype) !== itemBytes(dtype)
      this.visit(prediction.source, widens, true)
    }
    this.order.push(frame)
  }
}
