import type { Compression } from '../base/zstd.ts'
import type { FrameMachine } from '../kernels/machine.ts'

/** What reading and writing version 2 takes. */
export interface FrameKernels {
  readonly machine: FrameMachine
  readonly compression: Compression
}
