import type { Dtype, FloatDtype } from './dtypes.ts'
import type { FrameMachine } from './kernels/machine.ts'

/** Bytes `[start, end)` of a blob; `blob` is whatever the reader of the plan knows it by (a key, a path). */
export interface Span {
  readonly blob: string
  readonly start: number
  readonly end: number
}

/**
 * One operation on the float32 values of a frame, in the order of a lineage. Each names the parts (bytes) that
 * it takes, as indexes into the list that comes with the frame.
 */
export type FrameStep =
  /** Cast to `dtype` and back: the parent of the next delta is the stored values, not the unrounded ones. */
  | { readonly op: 'round'; readonly dtype: FloatDtype }
  /**
   * Add an int4 delta. `indices` (int64) and `values` (float16) hold the outliers within the frame, indices
   * counted from the tensor's start; `packed` begins at the byte that holds the frame's first nibble.
   */
  | {
      readonly op: 'int4'
      readonly scale: number
      readonly zeroPoint: number
      /** 1 if the frame's first value is the low nibble of the first byte. */
      readonly nibble: 0 | 1
      readonly indices: number
      readonly values: number
      readonly packed: number
    }
  /** Add a sparse delta: `indices` (int64, from the tensor's start) and `values` (float32) within the frame. */
  | { readonly op: 'sparse'; readonly indices: number; readonly values: number }
  /** Add a 1-bit delta: `signs` begins at the byte of the frame's first bit, `scales` (float16) at its first row. */
  | {
      readonly op: 'quantized'
      /** Bit (0 = most significant) of the frame's first element in the first byte. */
      readonly bit: number
      /** Column of the frame's first element in its row. */
      readonly column: number
      readonly columns: number
      readonly signs: number
      readonly scales: number
    }

/**
 * A run of elements of one tensor that decodes without its neighbours: load the base's values, apply the
 * steps, store. Plain data: it crosses to a worker as it is.
 */
export interface Frame {
  /** First element, counted from the tensor's start. */
  readonly first: number
  /** Elements, 1..FRAME_ELEMENTS. */
  readonly count: number
  /** dtype of part 0, the base's bytes. */
  readonly load: Dtype
  readonly steps: readonly FrameStep[]
  readonly store: FloatDtype
}

/**
 * The bytes of a frame, little-endian in `frame.store`, as a view that stays valid until the machine's next use.
 * `parts[0]` holds the base's `count` elements; the other parts are those that the steps name.
 * Arithmetic is float32 throughout and is cast once at each `round` and at the end (round to nearest even).
 * Source: deltatensors 0.2.0 `compress.py`, `compress_int4.py`, `io.py` (`load_delta_chain`).
 */
export function decodeFrame(
  machine: FrameMachine,
  frame: Frame,
  parts: readonly Uint8Array[],
): Uint8Array {
  applySteps(machine, frame, parts)
  return machine.store(frame.store)
}

/** Leaves the float32 values of a frame in the machine's accumulator, without casting them: see {@link decodeFrame}. */
export function applySteps(
  machine: FrameMachine,
  frame: Frame,
  parts: readonly Uint8Array[],
): void {
  machine.load(frame.load, parts[0]!, frame.count)
  for (const step of frame.steps) {
    switch (step.op) {
      case 'round':
        machine.round(step.dtype)
        break
      case 'int4':
        machine.addInt4({
          first: frame.first,
          scale: step.scale,
          zeroPoint: step.zeroPoint,
          nibble: step.nibble,
          indices: parts[step.indices]!,
          values: parts[step.values]!,
          packed: parts[step.packed]!,
        })
        break
      case 'sparse':
        machine.addSparse(frame.first, parts[step.indices]!, parts[step.values]!)
        break
      case 'quantized':
        machine.addQuantized({
          bit: step.bit,
          column: step.column,
          columns: step.columns,
          signs: parts[step.signs]!,
          scales: parts[step.scales]!,
        })
        break
    }
  }
}
