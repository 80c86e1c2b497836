import { hash } from 'node:crypto'
import {
  CodecError,
  decodeFrame,
  encodeFrame,
  FRAME_ELEMENTS,
  type Frame,
  type FrameMachine,
  isFloat,
  itemBytes,
  type LosslessTools,
  type Prediction,
  restoreFrame,
} from '../codec/index.ts'
import type { FileRuns } from './file-runs.ts'
import type {
  BadBlock,
  FrameParts,
  LosslessJob,
  LosslessRecord,
  LosslessResult,
  LosslessTask,
  Part,
  Piece,
  TaskBuffer,
  TunedFrame,
  VerifyTask,
} from './tasks.ts'

type LosslessPiece = Extract<Piece, { kind: 'lossless' }>
type Buffers = readonly TaskBuffer[]

/** Turns pieces into bytes, and frames into records. What it reads and makes stands in the arena of `files`. */
export class FrameBench {
  readonly #machine: FrameMachine
  readonly #files: FileRuns
  readonly #tools: LosslessTools

  constructor(tools: LosslessTools, files: FileRuns) {
    this.#tools = tools
    this.#machine = tools.machine
    this.#files = files
  }

  /** The bytes of each piece, as a view that the next one invalidates. */
  *produce(pieces: readonly Piece[], buffers: Buffers): Generator<Uint8Array> {
    for (const piece of pieces) {
      this.#files.release()
      yield this.#view(piece, buffers)
    }
  }

  /** A frame with its parts and the bytes of the fine-tune, which are valid until they are released. */
  tunedFrame(
    tuned: TunedFrame,
    buffers: Buffers,
  ): { frame: Frame; parts: Uint8Array[]; bytes: Uint8Array } {
    const parts = this.#parts(tuned, buffers)
    return { frame: tuned.frame, parts, bytes: this.#resolve(tuned.tuned, buffers) }
  }

  /** Encodes frames, decodes them again, and compares. @throws Error if one does not come back as it was */
  encode({ frames }: LosslessTask, buffers: Buffers): LosslessResult {
    const records: LosslessRecord[] = []
    // No record is longer than its frame. Of the memory only what is written to is ever there.
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

  /** Every bad block of the parts. @throws FileError for a fault of the machine */
  verify({ parts }: VerifyTask, buffers: Buffers): BadBlock[] {
    return parts.flatMap(part => {
      this.#files.release()
      const where = locate(part, buffers)
      return where instanceof Uint8Array
        ? this.#files.badBlocksOf(where, part.check!)
        : this.#files.badBlocks(where, part.check!)
    })
  }

  #encodeOne({ dtype, size, tuned, prediction }: LosslessJob, buffers: Buffers) {
    const arrived = this.#resolve(tuned, buffers)
    const frame = this.#files.take(size)
    frame.set(arrived)
    const expected = this.#files.take(size)
    this.#predict(prediction, dtype, expected, buffers)
    const { encoding, stored } = encodeFrame(this.#tools, dtype, frame, prediction && expected)
    restoreFrame(this.#tools, dtype, encoding, stored, expected)
    if (Buffer.compare(expected, arrived) !== 0) {
      throw new Error(
        `a ${encoding} frame of ${size} bytes of ${dtype} does not come back as it was`,
      )
    }
    return { encoding, record: stored, checksum: this.#machine.checksum(expected) }
  }

  #view(piece: Piece, buffers: Buffers): Uint8Array {
    switch (piece.kind) {
      case 'bytes':
        return piece.bytes
      case 'copy':
        return this.#resolve(piece.part, buffers)
      case 'frame': {
        const bytes = this.#files.take(frameBytes(piece.frame))
        decodeFrame(this.#machine, piece.frame, this.#parts(piece, buffers), bytes)
        return bytes.subarray(piece.slice.start, piece.slice.end)
      }
      case 'lossless': {
        const expected = this.#expected(piece, buffers)
        if (expected) this.#turnInto(piece, expected, buffers)
        const frame = expected ?? this.#files.take(piece.size)
        if (!expected) this.#restore(piece, frame, buffers)
        return frame.subarray(piece.slice.start, piece.slice.end)
      }
    }
  }

  /** Decodes a lossless frame into `frame`, where its prediction comes first. */
  #restore(piece: LosslessPiece, frame: Uint8Array, buffers: Buffers): void {
    this.#predict(piece.prediction, piece.dtype, frame, buffers)
    this.#turnInto(piece, frame, buffers)
  }

  /**
   * The prediction of a frame in memory that may become the frame: as it was read, where nothing must be done to it. Null where it must be made
   * first, or where it stands in a buffer of the task, which another piece may want too.
   */
  #expected({ prediction, dtype, size }: LosslessPiece, buffers: Buffers): Uint8Array | null {
    if (!prediction || prediction.dtype !== dtype || prediction.size !== size) return null
    const [only, ...others] = prediction.source
    if (only?.kind !== 'copy' || others.length > 0) return null
    const { part } = only
    return 'path' in part || part.check ? this.#resolve(part, buffers) : null
  }

  /** Turns the prediction in `frame` into the frame. */
  #turnInto(piece: LosslessPiece, frame: Uint8Array, buffers: Buffers): void {
    const { dtype, encoding, record, checksum } = piece
    const mark = this.#files.mark()
    const stored = record === null ? new Uint8Array(0) : this.#resolve(record, buffers)
    restoreFrame(this.#tools, dtype, encoding, stored, frame)
    this.#files.release(mark)
    const found = this.#machine.checksum(frame)
    if (found === checksum) return
    const message = `a ${encoding} frame: expected xxh64 ${checksum} of its ${frame.length} bytes, got ${found}`
    throw new CodecError('delta', 'frame-checksum', message)
  }

  /** Fills `frame` with what is expected of it. */
  #predict(
    prediction: Prediction<Piece> | null,
    dtype: LosslessJob['dtype'],
    frame: Uint8Array,
    buffers: Buffers,
  ): void {
    if (prediction === null) {
      frame.fill(0)
      return
    }
    const mark = this.#files.mark()
    if (prediction.dtype === dtype) {
      this.join(prediction.source, frame, buffers)
      frame.fill(0, prediction.size)
    } else {
      const source = this.#files.take(prediction.size)
      this.join(prediction.source, source, buffers)
      frame.fill(0, this.#cast(prediction.dtype, source, dtype, frame))
    }
    this.#files.release(mark)
  }

  /** Casts all of `source` into `frame`, and tells how many bytes that gave. */
  #cast(
    from: LosslessJob['dtype'],
    source: Uint8Array,
    to: LosslessJob['dtype'],
    frame: Uint8Array,
  ): number {
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
    const isArena = into.buffer === this.#machine.arena.buffer
    let at = 0
    for (const piece of pieces) {
      const mark = this.#files.mark()
      const size = pieceBytes(piece)
      const target = into.subarray(at, at + size)
      // Made where it is wanted, and not elsewhere first; a lossless frame is made in the kernels' memory at any rate.
      if (piece.kind === 'frame' && size === frameBytes(piece.frame)) {
        decodeFrame(this.#machine, piece.frame, this.#parts(piece, buffers), target)
      } else if (piece.kind === 'lossless' && size === piece.size && isArena) {
        this.#restore(piece, target, buffers)
      } else target.set(this.#view(piece, buffers))
      at += size
      this.#files.release(mark)
    }
  }

  /** The parts of a frame, the bytes that it begins with first. */
  #parts({ source, parts }: FrameParts, buffers: Buffers): Uint8Array[] {
    return [this.#sourceBytes(source, buffers), ...parts.map(part => this.#resolve(part, buffers))]
  }

  #sourceBytes(source: readonly Piece[], buffers: Buffers): Uint8Array {
    const [only] = source
    if (source.length === 1 && only!.kind === 'copy') return this.#view(only!, buffers)
    const bytes = this.#files.take(source.reduce((sum, piece) => sum + pieceBytes(piece), 0))
    this.join(source, bytes, buffers)
    return bytes
  }

  #resolve(part: Part, buffers: Buffers): Uint8Array {
    const where = locate(part, buffers)
    if (!(where instanceof Uint8Array)) return this.#files.read(where, part)
    const { start, end, check } = part
    const from = 'from' in part ? part.from : 0
    if (!check) return where.subarray(start - from, end - from)
    // Where the kernels have it: its checksums are taken there, and what works on it next need not copy it again.
    const taken = this.#files.take(where.length)
    taken.set(where)
    this.#files.verify(taken, check)
    return taken.subarray(start - from, end - from)
  }
}

/** The bytes that a part is of, or the files that have them. */
function locate(part: Part, buffers: Buffers): TaskBuffer {
  return 'path' in part ? [{ path: part.path, start: 0 }] : buffers[part.buffer]!
}

function frameBytes({ count, store }: Frame): number {
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
