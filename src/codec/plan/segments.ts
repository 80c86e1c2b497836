import type { Dtype } from '../base/dtypes.ts'
import type { ByteRange, Span } from '../base/ranges.ts'
import type { FloatFrame } from '../frames/float-frame.ts'
import type { Encoding } from '../frames/frame-encodings.ts'

/**
 * A piece of the output, in order: bytes that are known, bytes copied from a blob (at most FRAME_BYTES), or
 * `slice` of what a frame decodes to.
 */
export type Segment =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'copy'; readonly span: Span }
  | FloatFrameSegment
  | DeltaFrameSegment

/** A frame in float32. `source` gives the bytes that it begins with, `spans[i]` is part `i + 1` of its steps. */
export interface FloatFrameSegment {
  readonly kind: 'frame'
  readonly frame: FloatFrame
  readonly source: readonly Segment[]
  readonly spans: readonly Span[]
  readonly slice: ByteRange
}

/**
 * A frame of a lossless delta. Within what a segment is made from, frames form a graph and not a tree: one that is wanted in several places is
 * the same object in each, so that it can be decoded once.
 */
export interface DeltaFrame {
  readonly dtype: Dtype
  readonly encoding: Encoding
  /** Its record; null where it has none. */
  readonly span: Span | null
  /** Bytes of the frame, and their xxh64. */
  readonly size: number
  readonly checksum: bigint
  /** Null where nothing predicts it, or its record says everything. */
  readonly prediction: Prediction<Segment> | null
}

/** What a frame is predicted from: zeros follow where it ends before the frame. */
export interface Prediction<S> {
  readonly source: readonly S[]
  /** Bytes of `source`. */
  readonly size: number
  /** Its dtype: where it is not that of the frame, its values are cast. */
  readonly dtype: Dtype
}

/** `slice` of a frame of a lossless delta. */
export interface DeltaFrameSegment {
  readonly kind: 'lossless'
  readonly frame: DeltaFrame
  readonly slice: ByteRange
}
