import type {
  ByteRun,
  CodecErrorKind,
  Dtype,
  EncodePass,
  FloatDtype,
  Frame,
  PassResult,
  PlannedTensor,
} from '../codec/index.ts'

/** A frame whose part `i` is buffer `parts + i` of its task, and what of its output is wanted. */
export interface FrameJob {
  readonly frame: Frame
  readonly parts: number
  readonly slice: ByteRun
}

/** Decode frames; the wanted slices come back as one buffer, in order. */
export interface DecodeTask {
  readonly kind: 'decode'
  readonly jobs: readonly FrameJob[]
}

/**
 * Encode the delta of a frame: buffers `0 .. n-1` are the parts of the parent's frame, the last one holds the fine-tune's values
 * for the same elements. `pass` takes one look at it.
 */
export interface EncodeTask {
  readonly kind: 'encode'
  readonly frame: Frame
  readonly tunedDtype: Dtype
  readonly pass: EncodePass
}

/** Encode a tensor of one frame from beginning to end: one round trip instead of one per pass. */
export interface EncodeWholeTask {
  readonly kind: 'encode-whole'
  readonly frame: Frame
  readonly tunedDtype: Dtype
  readonly tensor: PlannedTensor
}

/**
 * Compare a frame, cast to its `store` dtype, with what was uploaded (the last buffer, in `tunedDtype`), and with
 * `parent`, whose steps are a prefix of the frame's: `parentSteps` of them give the parent's values.
 */
export interface CompareTask {
  readonly kind: 'compare'
  readonly frame: Frame
  readonly parentSteps: number
  readonly tunedDtype: Dtype
  readonly stored: FloatDtype
}

export interface Comparison {
  /** Sum of squared differences between the reconstruction and the upload, over finite values. */
  readonly squaredError: number
  readonly maxAbs: number
  /** Sum of squares of the change from the parent to the upload, over finite values. */
  readonly squaredDelta: number
}

/** Feeds a SHA-256 that lives in the worker; `session` is opened by its first update and closed by its digest. */
export interface HashTask {
  readonly kind: 'hash'
  readonly session: number
  readonly digest: boolean
}

export type Task = DecodeTask | EncodeTask | EncodeWholeTask | CompareTask | HashTask

/** What each kind of task gives back. */
export interface Results {
  readonly decode: Uint8Array<ArrayBuffer>
  readonly encode: PassResult
  /** The data of the tensor's arrays, joined in the order of its plan. */
  readonly 'encode-whole': Uint8Array<ArrayBuffer>
  readonly compare: Comparison
  /** Hex digest, or empty while the session goes on. */
  readonly hash: string
}

export interface TaskMessage {
  readonly id: number
  readonly task: Task
  readonly buffers: readonly Uint8Array[]
}

/** A failure as it crosses the thread: a CodecError keeps its fields. */
export interface TaskFailure {
  readonly message: string
  readonly stack: string | undefined
  readonly codec: { kind: CodecErrorKind; rule: string; offset: number | null } | null
}

export type ReplyMessage =
  | { readonly id: number; readonly value: Results[Task['kind']] }
  | { readonly id: number; readonly failure: TaskFailure }
