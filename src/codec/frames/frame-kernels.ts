import type { Compression } from '../base/zstd.ts'
import type { FrameMachine } from '../kernels/machine.ts'

/** What frames are encoded and decoded with, and the records and the index of a frame delta read and written. */
export interface FrameKernels {
  readonly machine: FrameMachine
  readonly compression: Compression
}
