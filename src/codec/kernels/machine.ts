import type { Dtype, FloatDtype } from '../dtypes.ts'

/** The arguments of {@link FrameMachine.addInt4}: see `FrameStep` in `frame.ts`. */
export interface Int4Run {
  readonly first: number
  readonly scale: number
  readonly zeroPoint: number
  readonly nibble: 0 | 1
  /** int64 little-endian, strictly increasing, within `[first, first + count)`. */
  readonly indices: Uint8Array
  /** float16, one per index. */
  readonly values: Uint8Array
  readonly packed: Uint8Array
}

export interface QuantizedRun {
  readonly bit: number
  readonly column: number
  readonly columns: number
  readonly signs: Uint8Array
  readonly scales: Uint8Array
}

/** Signed extremes of a set of float32 values; -Infinity / +Infinity for an empty set, NaN if one is NaN. */
export interface Extremes {
  readonly min: number
  readonly max: number
}

/**
 * One accumulator of at most FRAME_ELEMENTS float32 values and the operations on it. Two implementations: the
 * SIMD kernels (`simd.ts`) and plain TypeScript (`plain.ts`), which is the specification and the test oracle:
 * both give the same bits for every input, NaN payloads included where they pass through unchanged.
 * All byte arguments are little-endian and may be unaligned.
 */
export interface FrameMachine {
  /**
   * Sets the accumulator to `count` values of `dtype`, widened to float32 as numpy's `astype(float32)` does.
   * Every dtype with whole-byte elements (C64: the real part). F64 rounds to nearest even.
   */
  load(dtype: Dtype, bytes: Uint8Array, count: number): void
  /** Casts to `dtype` and back. Nothing to do for F32 and F64. */
  round(dtype: FloatDtype): void
  /** acc[e] += the outlier at e, or lut[next nibble]; lut[q] = f(f(f(q/15) * f(scale*15)) + f(zeroPoint)), high nibble first. */
  addInt4(run: Int4Run): void
  /**
   * acc[e] += value at e for the listed elements, acc[e] += +0 for all others (which turns -0 into +0).
   * `indices`: int64; `values`: float32.
   */
  addSparse(first: number, indices: Uint8Array, values: Uint8Array): void
  /** acc[e] += bit ? scale of e's row : -scale; bits most significant first and continuous across rows. */
  addQuantized(run: QuantizedRun): void
  /** The accumulator cast to `dtype`, as a view that the next call invalidates. NaN stays NaN (quiet). */
  store(dtype: FloatDtype): Uint8Array
  /** acc = f(widened tuned - acc): turns the parent's values into the delta. */
  subtractFrom(dtype: Dtype, tuned: Uint8Array): void
  /** The accumulator itself, as a view that the next call invalidates. */
  values(): Float32Array
}
