import type { Dtype, FloatDtype } from '../base/dtypes.ts'
import type { LaneMachine } from './lane-machine.ts'

/** The arguments of {@link FrameMachine.addInt4}: see `FrameStep` in `float-frame.ts`. */
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

/** The arguments of {@link FrameMachine.addQuantized}. */
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

/** Which elements an encoder keeps exactly: the largest magnitudes, ties broken by sign and then by position. */
export interface Cut {
  /** Bits of a magnitude, 0..0x7fffffff: every value whose bits without the sign are larger is kept. */
  readonly threshold: number
  /** Of the values whose magnitude is exactly the threshold: this many of the first with sign bit 0 … */
  readonly takePositive: number
  /** … and this many of the first with sign bit 1 are kept. */
  readonly takeNegative: number
}

/** Elements that a {@link Cut} keeps, in order. */
export interface Kept {
  /** Counted from the frame's start. */
  readonly offsets: Uint32Array<ArrayBuffer>
  readonly values: Float32Array<ArrayBuffer>
}

/** The arguments of {@link FrameMachine.quantizeInt4}. */
export interface Int4Grid extends Cut {
  /** Smallest value that is not an outlier, and the largest minus the smallest, both as doubles. */
  readonly min: number
  readonly range: number
  /** 1 if the first value goes to the low nibble of the first byte. */
  readonly nibble: 0 | 1
}

export interface Int4Codes extends Kept {
  /** Codes of the other elements, high nibble first; the nibbles before the first and after the last are 0. */
  readonly packed: Uint8Array<ArrayBuffer>
}

/** How many magnitudes lie above a threshold, and how many equal it with sign bit 0 and 1. */
export interface Ranks {
  readonly above: number
  readonly positiveTies: number
  readonly negativeTies: number
}

/** How far a reconstruction is from what was uploaded. */
export interface FrameError {
  /** Sum of squared differences in float64 over the elements where both are finite. */
  readonly squaredError: number
  /** Largest difference over the same elements. */
  readonly maxAbs: number
}

/**
 * One accumulator of at most FRAME_ELEMENTS float32 values and the operations on it. Two implementations: the
 * SIMD kernels (`simd.ts`) and plain TypeScript (`plain.ts`), which is the specification and the test oracle:
 * both give the same bits for every input, NaN payloads included where they pass through unchanged.
 * All byte arguments are little-endian and may be unaligned.
 */
export interface FrameMachine {
  /** Memory for the parts of a frame, which the machine does not use itself: parts that lie here are worked on without a copy. */
  readonly arena: Uint8Array<ArrayBuffer>
  /** The coder of `coded` frames. It is used between two frames, because using it loses the accumulator. */
  readonly lanes: LaneMachine
  /** XXH64 of any number of bytes, with seed 0. Source: xxHash `doc/xxhash_spec.md`. It is used between two frames, as the coder is. */
  checksum(bytes: Uint8Array): bigint
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

  // For the encoders: the accumulator holds the delta. What these return is the caller's to keep.

  /** into[bits(|v|) >>> 15] += 1 for every value; `into` has 65,536 bins. */
  histogramHigh(into: Uint32Array): void
  /**
   * For the values with bits(|v|) >>> 15 = `high`: adds 1 to bin bits(|v|) & 0x7fff of `positive` (sign bit 0)
   * or `negative`, of 32,768 bins each. Returns the signed extremes of the values with bits(|v|) >>> 15 < `high`.
   */
  histogramLow(high: number, positive: Uint32Array, negative: Uint32Array): Extremes
  /** Ranks the magnitudes against `threshold`, the bits of a magnitude. */
  countAbove(threshold: number): Ranks
  /** The elements that `cut` keeps. */
  selectTop(cut: Cut): Kept
  /**
   * Splits the frame into outliers (what the cut keeps) and 4-bit codes of the rest:
   * q = clip(rint(f(f(f(v - f(min)) / f(range)) * 15)), 0, 15), half to even; 0 for NaN, and for all if range < 1e-8.
   * Source: deltatensors 0.2.0 `compress_int4.py`.
   */
  quantizeInt4(grid: Int4Grid): Int4Codes
  /**
   * Bits !(v < 0), most significant first. The first stands at bit `bit` (0..7, 0 = most significant) of the first
   * byte; the bits before the first and after the last are 0.
   */
  packSigns(bit: number): Uint8Array<ArrayBuffer>
  /** numpy's float32 pairwise sum of |v| over the `count` values from `first` on, which lie within the frame. */
  pairwiseAbsSum(first: number, count: number): number
  /** Compares the accumulator, cast to `stored`, with `tuned`; the order of summation is fixed. */
  errorAgainst(dtype: Dtype, tuned: Uint8Array, stored: FloatDtype): FrameError
  /** Sum of v² in float64 over the finite values; the order of summation is fixed. */
  sumOfSquares(): number
}
