import { hash } from 'node:crypto'
import { type Dtype, isFloat, itemBytes } from '../../codec/base/dtypes.ts'
import { CodecError } from '../../codec/base/errors.ts'
import { FRAME_ELEMENTS } from '../../codec/base/limits.ts'
import { decodeFrame, type FloatFrame } from '../../codec/frames/float-frame.ts'
import { encodeFrame, isPredicted, restoreFrame } from '../../codec/frames/frame-encodings.ts'
import type { FrameKernels } from '../../codec/frames/frame-kernels.ts'
import type { FrameMachine } from '../../codec/kernels/machine.ts'
import type { Prediction } from '../../codec/plan/segments.ts'
import type { BadBlock } from '../errors.ts'
import type {
  DeltaFrameParts,
  EncodeFramesTask,
  FloatFrameParts,
  FrameJob,
  FrameRecord,
  FrameRecords,
  Part,
  Piece,
  TaskBuffer,
  TunedFrame,
  VerifyTask,
} from '../tasks.ts'
import type { FileReader } from './file-reader.ts'
import { SharedFrames } from './shared-frames.ts'

type Buffers = readonly TaskBuffer[]

/** Turns pieces into bytes, and frames into records, in the arena of `files`. */
export class FrameMaker {
  readonly #machine: FrameMachine
  readonly #files: FileReader
  readonly #tools: FrameKernels
  readonly #isCancelled: () => boolean
  readonly #shared = new SharedFrames()

  /** `isCancelled` is asked before each part is read: once it gives true, the task fails there. */
  constructor(tools: FrameKernels, files: FileReader, isCancelled: () => boolean) {
    this.#tools = tools
    this.#machine = tools.machine
    this.#files = files
    this.#isCancelled = isCancelled
  }

  /** The bytes of each piece, as a view that the next one invalidates. */
  *produce(pieces: readonly Piece[], buffers: Buffers): Generator<Uint8Array> {
    for (const piece of pieces) {
      this.#files.release()
      this.#share([piece], buffers)
      yield this.#view(piece, buffers, true)
    }
  }

  /** A frame, its parts and the bytes of the fine-tune, all valid until they are released. */
  tunedFrame(
    tuned: TunedFrame,
    buffers: Buffers,
  ): { frame: FloatFrame; parts: Uint8Array[]; bytes: Uint8Array } {
    this.#share(tuned.source, buffers)
    const parts = this.#parts(tuned, buffers, true)
    return { frame: tuned.frame, parts, bytes: this.#resolve(tuned.tuned, buffers) }
  }

  /** Encodes frames, decodes each record again, and compares. @throws Error if a frame does not come back as it was */
  encode({ frames }: EncodeFramesTask, buffers: Buffers): FrameRecords {
    const records: FrameRecord[] = []
    // No record is longer than its frame. Memory that is never written to costs nothing.
    const most = frames.reduce((sum, { size }) => sum + size, 0)
    const bytes = new Uint8Array(Buffer.allocUnsafeSlow(most).buffer)
    let start = 0
    for (const job of frames) {
      this.#files.release()
      const { encoding, record, checksum } = this.#encodeOne(job, buffers)
      const { length } = record
      bytes.set(record, start)
      const sha256 = hash('sha256', record, 'base64')
      const recordChecksum = this.#machine.checksum(record)
      records.push({ encoding, start, length, sha256, recordChecksum, checksum })
      start += length
    }
    return { records, bytes }
  }

  /** Frees memory that is kept only to be used again. */
  trim(): void {
    this.#shared.trim()
  }

  /** Every bad block of the parts. @throws FileError for a fault of the machine */
  verify({ parts }: VerifyTask, buffers: Buffers): BadBlock[] {
    return parts.flatMap(part => {
      this.#checkCancelled()
      this.#files.release()
      const where = locate(part, buffers)
      return where instanceof Uint8Array
        ? this.#files.badBlocksOf(where, part.check!)
        : this.#files.badBlocks(where, part.check!)
    })
  }

  #encodeOne({ dtype, size, tuned, prediction, lineage }: FrameJob, buffers: Buffers) {
    const arrived = this.#resolve(tuned, buffers)
    const frame = this.#files.take(size)
    frame.set(arrived)
    const expected = this.#files.take(size)
    if (prediction) this.#share(prediction.source, buffers)
    this.#predict(prediction, dtype, expected, buffers, true)
    const { encoding, stored } = encodeFrame(
      this.#tools,
      dtype,
      frame,
      prediction && expected,
      lineage,
    )
    restoreFrame(this.#tools, dtype, encoding, stored, expected)
    if (Buffer.compare(expected, arrived) !== 0) {
      throw new Error(
        `a ${encoding} frame of ${size} bytes of ${dtype} does not come back as it was`,
      )
    }
    return { encoding, record: stored, checksum: this.#machine.checksum(expected) }
  }

  #checkCancelled(): void {
    if (this.#isCancelled()) throw new Error('nobody waits for this task any more')
  }

  /** Makes the frames behind `pieces` that several others need. */
  #share(pieces: readonly Piece[], buffers: Buffers): void {
    this.#shared.make(pieces, (frame, into) => {
      const mark = this.#files.mark()
      this.#restore(frame, into, buffers)
      this.#files.release(mark)
    })
  }

  /**
   * The bytes of a piece. `isLast`: no other frame is made from it, so that the checksum of a delta frame is compared. The checksum of the last
   * frame proves all that it was made from, whose blocks are checked as they are read.
   */
  #view(piece: Piece, buffers: Buffers, isLast: boolean): Uint8Array {
    switch (piece.kind) {
      case 'bytes':
        return piece.bytes
      case 'copy':
        return this.#resolve(piece.part, buffers)
      case 'frame': {
        const bytes = this.#files.take(frameBytes(piece.frame))
        decodeFrame(this.#machine, piece.frame, this.#parts(piece, buffers, isLast), bytes)
        return bytes.subarray(piece.slice.start, piece.slice.end)
      }
      case 'lossless': {
        const { frame, slice } = piece
        const bytes = this.#shared.use(frame) ?? this.#decode(frame, buffers)
        if (isLast) this.#compare(frame, bytes)
        return bytes.subarray(slice.start, slice.end)
      }
    }
  }

  /** A delta frame, in memory of its own. */
  #decode(frame: DeltaFrameParts, buffers: Buffers): Uint8Array {
    const expected = this.#expected(frame, buffers)
    if (expected) {
      this.#turnInto(frame, expected, buffers)
      return expected
    }
    const bytes = this.#files.take(frame.size)
    this.#restore(frame, bytes, buffers)
    return bytes
  }

  /** Decodes a delta frame into `bytes`, which hold its prediction first. */
  #restore(frame: DeltaFrameParts, bytes: Uint8Array, buffers: Buffers): void {
    if (isPredicted(frame.encoding)) {
      this.#predict(frame.prediction, frame.dtype, bytes, buffers, false)
    }
    this.#turnInto(frame, bytes, buffers)
  }

  /**
   * The prediction of a frame, in memory that may be turned into the frame: possible if the prediction is what was read, unchanged. Null if it must
   * be made first, or if it is in a buffer of the task, which another piece may need too.
   */
  #expected({ prediction, dtype, size }: DeltaFrameParts, buffers: Buffers): Uint8Array | null {
    if (!prediction || prediction.dtype !== dtype || prediction.size !== size) return null
    const [only, ...others] = prediction.source
    if (only?.kind !== 'copy' || others.length > 0) return null
    const { part } = only
    return 'path' in part || part.check ? this.#resolve(part, buffers) : null
  }

  /** Turns the prediction in `bytes` into the frame. */
  #turnInto(
    { dtype, encoding, record }: DeltaFrameParts,
    bytes: Uint8Array,
    buffers: Buffers,
  ): void {
    const mark = this.#files.mark()
    const stored = record === null ? new Uint8Array(0) : this.#resolve(record, buffers)
    restoreFrame(this.#tools, dtype, encoding, stored, bytes)
    this.#files.release(mark)
  }

  /** Compares the checksum of a frame. @throws CodecError `frame-checksum` */
  #compare({ encoding, checksum }: DeltaFrameParts, bytes: Uint8Array): void {
    const found = this.#machine.checksum(bytes)
    if (found === checksum) return
    const message = `a ${encoding} frame: expected xxh64 ${checksum} of its ${bytes.length} bytes, got ${found}`
    throw new CodecError('delta', 'frame-checksum', message)
  }

  /** Fills `frame` with its prediction. `isLast`: see {@link #view}. */
  #predict(
    prediction: Prediction<Piece> | null,
    dtype: Dtype,
    frame: Uint8Array,
    buffers: Buffers,
    isLast: boolean,
  ): void {
    const filled = prediction ? this.#fill(prediction, dtype, frame, buffers, isLast) : 0
    frame.fill(0, filled)
  }

  /** Fills the beginning of `frame` with the values of a prediction, and gives their bytes. */
  #fill(
    { source, dtype: from, size }: Prediction<Piece>,
    dtype: Dtype,
    frame: Uint8Array,
    buffers: Buffers,
    isLast: boolean,
  ): number {
    if (from === dtype || itemBytes(from) === itemBytes(dtype)) {
      const values = frame.subarray(0, size)
      this.#join(source, values, buffers, isLast)
      return from === dtype ? size : this.#cast(from, values, dtype, frame)
    }
    let at = 0
    for (const piece of source) {
      const mark = this.#files.mark()
      at += this.#cast(from, this.#view(piece, buffers, isLast), dtype, frame.subarray(at))
      this.#files.release(mark)
    }
    return at
  }

  /** Casts all of `source` into `frame`, which may be the same memory if its elements are not wider, and gives the bytes written. */
  #cast(from: Dtype, source: Uint8Array, to: Dtype, frame: Uint8Array): number {
    if (!isFloat(to)) throw new CodecError('delta', 'source', `${from} cannot be cast to ${to}`)
    const [fromItem, item] = [itemBytes(from), itemBytes(to)]
    const count = source.length / fromItem
    for (let first = 0; first < count; first += FRAME_ELEMENTS) {
      const run = Math.min(FRAME_ELEMENTS, count - first)
      this.#machine.load(from, source.subarray(first * fromItem), run)
      frame.set(this.#machine.store(to), first * item)
    }
    return count * item
  }

  /** The bytes of all pieces, one after the other, into `into`. */
  join(pieces: readonly Piece[], into: Uint8Array, buffers: Buffers): void {
    let at = 0
    for (const piece of pieces) {
      const size = pieceBytes(piece)
      this.#share([piece], buffers)
      this.#join([piece], into.subarray(at, at + size), buffers, true)
      at += size
    }
  }

  #join(pieces: readonly Piece[], into: Uint8Array, buffers: Buffers, isLast: boolean): void {
    const isArena = into.buffer === this.#machine.arena.buffer
    let at = 0
    for (const piece of pieces) {
      const mark = this.#files.mark()
      const size = pieceBytes(piece)
      const target = into.subarray(at, at + size)
      // Made in place if possible. A delta frame is made in the kernels' memory, so that only a part of the arena will do.
      if (piece.kind === 'frame' && size === frameBytes(piece.frame)) {
        decodeFrame(this.#machine, piece.frame, this.#parts(piece, buffers, isLast), target)
      } else if (isArena && piece.kind === 'lossless' && this.#isWhole(piece)) {
        this.#restore(piece.frame, target, buffers)
        if (isLast) this.#compare(piece.frame, target)
      } else target.set(this.#view(piece, buffers, isLast))
      at += size
      this.#files.release(mark)
    }
  }

  /** True if the slice is all of a frame that is not made yet. */
  #isWhole({ frame, slice }: Extract<Piece, { kind: 'lossless' }>): boolean {
    return slice.end - slice.start === frame.size && !this.#shared.has(frame)
  }

  /** The parts of a frame. Part 0 are the bytes that it begins with. */
  #parts({ source, parts }: FloatFrameParts, buffers: Buffers, isLast: boolean): Uint8Array[] {
    const bytes = this.#sourceBytes(source, buffers, isLast)
    return [bytes, ...parts.map(part => this.#resolve(part, buffers))]
  }

  #sourceBytes(source: readonly Piece[], buffers: Buffers, isLast: boolean): Uint8Array {
    const [only] = source
    if (source.length === 1 && only!.kind === 'copy') return this.#view(only!, buffers, isLast)
    const bytes = this.#files.take(source.reduce((sum, piece) => sum + pieceBytes(piece), 0))
    this.#join(source, bytes, buffers, isLast)
    return bytes
  }

  /** The bytes of a part, checked. @throws Error once the task is cancelled; BlockError, FileError */
  #resolve(part: Part, buffers: Buffers): Uint8Array {
    this.#checkCancelled()
    const where = locate(part, buffers)
    if (!(where instanceof Uint8Array)) return this.#files.read(where, part)
    const { start, end, check } = part
    const from = 'from' in part ? part.from : 0
    if (!check) return where.subarray(start - from, end - from)
    // Into the kernels' memory: checksums are taken there, and the next step need not copy it again.
    const taken = this.#files.take(where.length)
    taken.set(where)
    this.#files.verify(taken, check)
    return taken.subarray(start - from, end - from)
  }
}

/** The buffer that a part is in, or the files that have it. */
function locate(part: Part, buffers: Buffers): TaskBuffer {
  return 'path' in part ? [{ path: part.path, start: 0 }] : buffers[part.buffer]!
}

function frameBytes({ count, store }: FloatFrame): number {
  return count * itemBytes(store)
}

function pieceBytes(piece: Piece): number {
  switch (piece.kind) {
    case 'bytes':
      return piece.bytes.length
    case 'copy':
      return piece.size
    case 'frame':
    case 'lossless':
      return piece.slice.end - piece.slice.start
  }
}
