import type { Dtype, Extremes, Frame } from '../codec/index.ts'

/** Half-open run of bytes within a frame's output. */
export interface Slice {
  readonly start: number
  readonly end: number
}

/** A frame whose parts stand at `parts` onwards in the task's list of buffers. */
export interface FrameJob {
  readonly frame: Frame
  readonly parts: number
  /** What of the frame's output is wanted. */
  readonly slice: Slice
}

/** The parent's frame (its steps leave float32 values) and the fine-tune's bytes for the same elements, `parts[tuned]`. */
export interface DeltaJob {
  readonly frame: Frame
  readonly parts: number
  readonly tunedDtype: Dtype
  readonly tuned: number
}
