import type { CheckedBlocks } from '../codec/base/block-sums.ts'
import type { Dtype, FloatDtype } from '../codec/base/dtypes.ts'
import type { CodecErrorKind } from '../codec/base/errors.ts'
import type { ByteRange, LocalFile } from '../codec/base/ranges.ts'
import type { FloatFrame } from '../codec/frames/float-frame.ts'
import type { Encoding } from '../codec/frames/frame-encodings.ts'
import type { EncodePass, PassResult } from '../codec/lossy/passes.ts'
import type { Prediction } from '../codec/plan/segments.ts'
import type { PlannedTensor } from '../codec/wdelta/v1/writer.ts'
import type { BadBlock } from './errors.ts'

/** The blocks of a blob that bytes are checked against before one of them is used. */
export interface Check extends CheckedBlocks {
  readonly blob: string
}

/** Bytes `[start, end)` of a file that the worker reads itself. */
interface PartInFile extends ByteRange {
  readonly path: string
  /** The blocks that cover them; null for a file without checksums. */
  readonly check: Check | null
}

/** Bytes that go with a task: themselves, or the files, in order, that the worker reads them from. */
export type TaskBuffer = Uint8Array | readonly LocalFile[]

/** Bytes `[start, end)` of a blob, in a buffer of the task: `buffer` is its number, and it begins at byte `from` of the blob. */
interface PartInBuffer extends ByteRange {
  readonly buffer: number
  readonly from: number
  /** The blocks that are all of the buffer; null if there are no checksums. */
  readonly check: Check | null
}

/** Where a worker finds bytes. */
export type Part = PartInFile | PartInBuffer

/** A piece of output, as a worker makes it: see `Segment`. */
export type Piece =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'copy'; readonly part: Part; readonly size: number }
  | (FloatFrameParts & { readonly kind: 'frame'; readonly slice: ByteRange })
  | { readonly kind: 'lossless'; readonly frame: DeltaFrameParts; readonly slice: ByteRange }

/** A frame of a frame delta: see `DeltaFrame`. If several pieces need it, it crosses to the worker as one object. */
export interface DeltaFrameParts {
  readonly dtype: Dtype
  readonly encoding: Encoding
  readonly record: Part | null
  readonly size: number
  readonly checksum: bigint
  readonly prediction: Prediction<Piece> | null
}

/** A frame in float32, the bytes that it begins with, and the parts of its steps. */
export interface FloatFrameParts {
  readonly frame: FloatFrame
  readonly source: readonly Piece[]
  readonly parts: readonly Part[]
}

/** Produce the pieces, in order, into shared memory of their size. */
export interface DecodeTask {
  readonly kind: 'decode'
  readonly pieces: readonly Piece[]
  readonly into: Uint8Array<SharedArrayBuffer>
}

/** Produce the pieces and write them to an existing file from byte `position` on. */
export interface WriteTask {
  readonly kind: 'write'
  readonly pieces: readonly Piece[]
  readonly path: string
  readonly position: number
}

/** A frame and the fine-tune's values for the same elements. */
export interface TunedFrame extends FloatFrameParts {
  readonly tuned: Part
  readonly tunedDtype: Dtype
}

/** Take one pass over the delta of a frame. */
interface EncodeTask extends TunedFrame {
  readonly kind: 'encode'
  readonly pass: EncodePass
}

/**
 * Encode a tensor from beginning to end: its frames, in order and without a gap, are loaded once, and the worker takes all passes over them. It
 * holds 4 bytes for each element.
 */
export interface EncodeWholeTask {
  readonly kind: 'encode-whole'
  readonly frames: readonly TunedFrame[]
  readonly tensor: PlannedTensor
}

/**
 * Compare a frame, cast to `stored`, with what was uploaded. The first `parentSteps` of its steps give the parent's values.
 */
export interface CompareTask extends TunedFrame {
  readonly kind: 'compare'
  readonly parentSteps: number
  readonly stored: FloatDtype
}

/** A frame of a fine-tune to be encoded, and what predicts it. */
export interface FrameJob {
  readonly dtype: Dtype
  readonly size: number
  readonly tuned: Part
  readonly prediction: Prediction<Piece> | null
  /** The number of segments that the prediction is made from. */
  readonly lineage: number
}

/** Encode frames. Each record is decoded again and compared before it is given back. */
export interface EncodeFramesTask {
  readonly kind: 'encode-frames'
  readonly frames: readonly FrameJob[]
}

export interface FrameRecord {
  readonly encoding: Encoding
  /** Where its bytes are in {@link FrameRecords}; it has none if it is a `copy`. */
  readonly start: number
  readonly length: number
  /** SHA-256 of its bytes, base64: equal records are stored once. */
  readonly sha256: string
  /** xxh64 of the record and of the frame. */
  readonly recordChecksum: bigint
  readonly checksum: bigint
}

export interface FrameRecords {
  readonly records: readonly FrameRecord[]
  /** The records, one after the other; the bytes after the last mean nothing. */
  readonly bytes: Uint8Array<ArrayBuffer>
}

/** Take a SHA-256 of each tensor, from its pieces. */
export interface DigestsTask {
  readonly kind: 'digests'
  readonly tensors: readonly (readonly Piece[])[]
}

/** Check the blocks of parts, all of which have checksums, and give back the bad ones. */
export interface VerifyTask {
  readonly kind: 'verify'
  readonly parts: readonly Part[]
}

/** How far a reconstruction is from what was uploaded, over some elements. */
export interface Comparison {
  /** Sum of squared differences between the reconstruction and the upload, over finite values. */
  readonly squaredError: number
  readonly maxAbs: number
  /** Sum of squares of the change from the parent to the upload, over finite values. */
  readonly squaredDelta: number
}

/**
 * Produce the pieces and feed them to a SHA-256 whose state is in the worker. The first task of a `session` opens it, the one that asks for the
 * digest closes it.
 */
export interface HashTask {
  readonly kind: 'hash'
  readonly session: number
  readonly pieces: readonly Piece[]
  readonly digest: boolean
}

/**
 * Produce the pieces of tensors in name order and feed them to the hashes of a model, whose state is in the worker, as for a {@link HashTask}. Each
 * piece is produced once for all hashes.
 */
export interface HashModelTask {
  readonly kind: 'hash-model'
  readonly session: number
  /** In the order of `planHash`: a piece of kind `bytes` is the name that begins a tensor, the others are its stored values. */
  readonly pieces: readonly Piece[]
  /** The dtypes of the tensors that begin here, in order. */
  readonly dtypes: readonly Dtype[]
  /** True to hash the values widened to float32 too. */
  readonly widens: boolean
  readonly digest: boolean
}

export interface ModelDigests {
  /** SHA-256 of each tensor that ended, in order and one after the other. */
  readonly tensors: Uint8Array<ArrayBuffer>
  /** The lineage hashes, hex; null while the session goes on. `float32` is null too if it is not taken. */
  readonly stored: string | null
  readonly float32: string | null
}

/** Free the memory that is kept only to be used again, and collect the thread's garbage. */
interface TrimTask {
  readonly kind: 'trim'
}

export type Task =
  | DecodeTask
  | WriteTask
  | EncodeTask
  | EncodeWholeTask
  | EncodeFramesTask
  | CompareTask
  | DigestsTask
  | VerifyTask
  | HashTask
  | HashModelTask
  | TrimTask

/** The result of each kind of task. */
export interface Results {
  readonly decode: null
  readonly write: null
  readonly encode: PassResult
  /** The data of the tensor's arrays, joined in the order of its plan. */
  readonly 'encode-whole': Uint8Array<ArrayBuffer>
  readonly 'encode-frames': FrameRecords
  readonly compare: Comparison
  /** 32 bytes for each tensor. */
  readonly digests: readonly Uint8Array[]
  readonly verify: readonly BadBlock[]
  /** Hex digest; empty while the session goes on. */
  readonly hash: string
  readonly 'hash-model': ModelDigests
  readonly trim: null
}

export interface TaskMessage {
  readonly task: Task
  readonly buffers: readonly TaskBuffer[]
}

/** A failure as it crosses to another thread. A CodecError keeps its fields. */
export interface TaskFailure {
  readonly message: string
  readonly stack: string | undefined
  readonly codec: { kind: CodecErrorKind; rule: string; offset: number | null } | null
  /** Set if a file could not be read or written: `code` is the system's, or `short` if the file ended too early. */
  readonly file: { path: string; code: string } | null
  /** Set if a blob has a bad block: see `BlockError`. */
  readonly block: BadBlock | null
}

export type ReplyMessage =
  | { readonly value: Results[Task['kind']] }
  | { readonly failure: TaskFailure }
