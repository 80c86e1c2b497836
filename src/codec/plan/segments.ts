import type { Dtype } from '../base/dtypes.ts'
import type { ByteRange, Span } from '../base/ranges.ts'
import type { FloatFrame } from '../frames/float-frame.ts'
import type { Encoding } from '../frames/frame-encodings.ts'

/**
 * A piece of the output: known bytes, bytes copied from a blob (at most FRAME_BYTES), or part of what a frame decodes to.
 */
export type Segment =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'copy'; readonly span: Span }
  | FloatFrameSegment
  | DeltaFrameSegment

/** `slice` of a frame in float32. `source` gives the bytes that it begins with, its part 0; `spans[i]` is its part `i + 1`. */
export interface FloatFrameSegment {
  readonly kind: 'frame'
  readonly frame: FloatFrame
  readonly source: readonly Segment[]
  readonly spans: readonly Span[]
  readonly slice: ByteRange
}

/**
 * A frame of a frame delta. The frames that a segment is made from are a graph, not a tree: one that is needed in several places is the same
 * object in each, so that it can be decoded once.
 */
export interface DeltaFrame {
  readonly dtype: Dtype
  readonly encoding: Encoding
  /** Its record; null for a frame without one. */
  readonly span: Span | null
  /** Bytes of the frame, and their xxh64. */
  readonly size: number
  readonly checksum: bigint
  /** Null if nothing predicts it, or if its encoding needs no prediction. */
  readonly prediction: Prediction<Segment> | null
}

/** What a frame is predicted from. If it is shorter than the frame, zeros follow. */
export interface Prediction<S> {
  readonly source: readonly S[]
  /** Bytes of `source`. */
  readonly size: number
  /** Its dtype. If that is not the frame's, its values are cast. */
  readonly dtype: Dtype
}

/** `slice` of a frame of a frame delta. */
export interface DeltaFrameSegment {
  readonly kind: 'lossless'
  readonly frame: DeltaFrame
  readonly slice: ByteRange
}
