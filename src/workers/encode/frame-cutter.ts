import type { LayoutTensor } from '../../codec/safetensors/layout.ts'

/** A frame of a tensor as it was cut; without bytes for a tensor that has none. */
export interface CutFrame {
  readonly tensor: LayoutTensor
  readonly frame: number
  readonly bytes: Uint8Array | null
}
