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

/** What bytes are checked against before one of them is used: whole blocks of a blob. */
export interface Check extends CheckedBlocks {
  readonly blob: string
}

/** Bytes `[start, end)` of a file that the worker reads itself. */
interface PartInFile extends ByteRange {
  readonly path: string
  /** Of blocks that cover them; null for a file that nothing is known of. */
  readonly check: Check | null
}

/** What comes with a task: bytes that are handed over with it, or the files, in order, that the worker reads them from. */
export type TaskBuffer = Uint8Array | readonly LocalFile[]

/** Bytes `[start, end)` of the blob that a buffer of the task's list has a part of; bytes begin at byte `from` of it. */
interface PartInBuffer extends ByteRange {
  readonly buffer: number
  readonly from: number
  /** Of all that the buffer has. */
  readonly check: Check | null
}

/** Where bytes are. */
export type Part = PartInFile | PartInBuffer

/** What one piece of output is made of: see `Segment`. */
export type Piece =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'copy'; readonly part: Part; readonly size: number }
  | (FloatFrameParts & { readonly kind: 'frame'; readonly slice: ByteRange })
  | { readonly kind: 'lossless'; readonly frame: DeltaFrameParts; readonly slice: ByteRange }

/** A frame of a frame delta: see `DeltaFrame`. Where several pieces want one, it crosses to the worker as one object. */
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

/** Produce the pieces, in order, into memory of their size that all threads share. */
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

/** Take one look at the delta of a frame of the parent. */
interface EncodeTask extends TunedFrame {
  readonly kind: 'encode'
  readonly pass: EncodePass
}

/**
 * Encode a tensor from beginning to end: its frames, in order and without a gap, are loaded once, and all passes are taken over what
 * the worker then holds, 4 bytes per element.
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

/** A frame of a fine-tune that becomes lossless, and what predicts it. */
export interface FrameJob {
  readonly dtype: Dtype
  readonly size: number
  readonly tuned: Part
  readonly prediction: Prediction<Piece> | null
  /** Segments that the prediction is made from. */
  readonly lineage: number
}

/** Encode frames without loss. Each record is decoded again and compared before it is given back. */
export interface EncodeFramesTask {
  readonly kind: 'encode-frames'
  readonly frames: readonly FrameJob[]
}

export interface FrameRecord {
  readonly encoding: Encoding
  /** Its bytes, by place in {@link FrameRecords}; none for `copy`. */
  readonly start: number
  readonly length: number
  /** SHA-256 of its bytes, base64: by it one is known for another. */
  readonly sha256: string
  /** xxh64 of the record and of the frame. */
  readonly recordChecksum: bigint
  readonly checksum: bigint
}

export interface FrameRecords {
  readonly records: readonly FrameRecord[]
  /** The records, one after the other; what follows the last means nothing. */
  readonly bytes: Uint8Array<ArrayBuffer>
}

/** Take a SHA-256 of each tensor, from its pieces. */
export interface DigestsTask {
  readonly kind: 'digests'
  readonly tensors: readonly (readonly Piece[])[]
}

/** Check the blocks of parts, each of which has a check, and use none of their bytes. */
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
 * Produce the pieces and feed them to a SHA-256 that lives in the worker; `session` is opened by its first task and closed by
 * the one that asks for the digest.
 */
export interface HashTask {
  readonly kind: 'hash'
  readonly session: number
  readonly pieces: readonly Piece[]
  readonly digest: boolean
}

/**
 * Produce the pieces of tensors in name order and feed them to the hashes of a model, which live in the worker as those of a {@link HashTask} do:
 * each piece is produced once for all of them.
 */
export interface HashModelTask {
  readonly kind: 'hash-model'
  readonly session: number
  /** As `planHash` orders them: bytes are the name that a tensor begins with, all others its values as stored. */
  readonly pieces: readonly Piece[]
  /** Of the tensors that begin here, in order. */
  readonly dtypes: readonly Dtype[]
  /** Whether the names and values are hashed widened to float32 as well. */
  readonly widens: boolean
  readonly digest: boolean
}

export interface ModelDigests {
  /** SHA-256 of each tensor that ended, in order and one after the other. */
  readonly tensors: Uint8Array<ArrayBuffer>
  /** The lineage hashes, hex, or null while the session goes on; `float32` also where it is not taken. */
  readonly stored: string | null
  readonly float32: string | null
}

/** Drop what is only kept to be used again, and collect the thread's garbage. */
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

/** What each kind of task gives back. */
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
  /** Hex digest, or empty while the session goes on. */
  readonly hash: string
  readonly 'hash-model': ModelDigests
  readonly trim: null
}

export interface TaskMessage {
  readonly task: Task
  readonly buffers: readonly TaskBuffer[]
}

/** A failure as it crosses the thread: a CodecError keeps its fields. */
export interface TaskFailure {
  readonly message: string
  readonly stack: string | undefined
  readonly codec: { kind: CodecErrorKind; rule: string; offset: number | null } | null
  /** Of a file that could not be read or written: the system's code, or `short` if it ended too early. */
  readonly file: { path: string; code: string } | null
  /** Of a blob with a bad block: see `BlockError`. */
  readonly block: BadBlock | null
}

export type ReplyMessage =
  | { readonly value: Results[Task['kind']] }
  | { readonly failure: TaskFailure }
