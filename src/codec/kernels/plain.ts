import { type Dtype, type FloatDtype, itemBytes } from '../base/dtypes.ts'
import { FRAME_ELEMENTS } from '../base/limits.ts'
import { narrow, widen } from '../base/widen.ts'
import type {
  Cut,
  Extremes,
  FrameError,
  FrameMachine,
  Int4Codes,
  Int4Grid,
  Int4Run,
  Kept,
  QuantizedRun,
  Ranks,
} from './machine.ts'
import {
  checkElements,
  checkInt4,
  checkListed,
  checkQuantized,
  int4Table,
  readOffsets,
} from './parts.ts'
import { xxh64 } from './plain-checksum.ts'
import {
  countAbove,
  errorBetween,
  histogramHigh,
  histogramLow,
  packSigns,
  pairwiseAbsSum,
  quantizeInt4,
  selectTop,
  sumOfSquares,
} from './plain-encode.ts'
import { PlainLanes } from './plain-lanes.ts'

/** The float32 sum. Of two NaN the first one stays, as in SIMD; the language leaves that open. */
function sum(a: number, b: number): number {
  return Number.isNaN(a) ? a : Math.fround(a + b)
}

/** The float32 difference; NaN as in {@link sum}. */
function difference(a: number, b: number): number {
  return Number.isNaN(a) ? a : Math.fround(a - b)
}

/**
 * The operations of a {@link FrameMachine} in plain TypeScript: one element at a time, in the order of the
 * reference's arithmetic. It is the specification of the SIMD kernels.
 */
export class PlainMachine implements FrameMachine {
  readonly #all = new Float32Array(FRAME_ELEMENTS)
  #acc = this.#all.subarray(0, 0)
  readonly arena = new Uint8Array(0)
  readonly lanes = new PlainLanes()
  readonly checksum = xxh64

  load(dtype: Dtype, bytes: Uint8Array, count: number): void {
    checkElements(dtype, bytes, count)
    this.#acc = this.#all.subarray(0, count)
    widen(dtype, bytes, count, this.#acc)
  }

  round(dtype: FloatDtype): void {
    if (dtype === 'BF16' || dtype === 'F16')
      widen(dtype, this.store(dtype), this.#acc.length, this.#acc)
  }

  addInt4(run: Int4Run): void {
    const acc = this.#acc
    const listed = checkInt4(run, acc.length)
    const offsets = readOffsets(run.indices, run.first, acc.length)
    const values = new Float32Array(listed)
    widen('F16', run.values, listed, values)
    const table = int4Table(run.scale, run.zeroPoint)
    let outlier = 0
    let nibble: number = run.nibble
    for (let e = 0; e < acc.length; e++) {
      if (offsets[outlier] === e) {
        acc[e] = sum(acc[e]!, values[outlier++]!)
      } else {
        const byte = run.packed[nibble >> 1]!
        acc[e] = sum(acc[e]!, table[nibble & 1 ? byte & 15 : byte >> 4]!)
        nibble++
      }
    }
  }

  addSparse(first: number, indices: Uint8Array, bytes: Uint8Array): void {
    const acc = this.#acc
    const listed = checkListed(indices, bytes, 4, acc.length)
    const offsets = readOffsets(indices, first, acc.length)
    const values = new Float32Array(listed)
    widen('F32', bytes, listed, values)
    let kept = 0
    for (let e = 0; e < acc.length; e++) {
      acc[e] = sum(acc[e]!, offsets[kept] === e ? values[kept++]! : 0)
    }
  }

  addQuantized(run: QuantizedRun): void {
    const acc = this.#acc
    const rows = checkQuantized(run, acc.length)
    const scales = new Float32Array(rows)
    widen('F16', run.scales, rows, scales)
    for (let e = 0; e < acc.length; e++) {
      const bit = run.bit + e
      const scale = scales[Math.floor((run.column + e) / run.columns)]!
      acc[e] = sum(acc[e]!, (run.signs[bit >> 3]! << (bit & 7)) & 128 ? scale : -scale)
    }
  }

  store(dtype: FloatDtype): Uint8Array {
    const bytes = new Uint8Array(this.#acc.length * itemBytes(dtype))
    narrow(dtype, this.#acc, bytes)
    return bytes
  }

  subtractFrom(dtype: Dtype, tuned: Uint8Array): void {
    const acc = this.#acc
    const values = this.#widened(dtype, tuned)
    for (let e = 0; e < acc.length; e++) acc[e] = difference(values[e]!, acc[e]!)
  }

  values(): Float32Array {
    return this.#acc
  }

  histogramHigh(into: Uint32Array): void {
    histogramHigh(this.#acc, into)
  }

  histogramLow(high: number, positive: Uint32Array, negative: Uint32Array): Extremes {
    return histogramLow(this.#acc, high, positive, negative)
  }

  countAbove(threshold: number): Ranks {
    return countAbove(this.#acc, threshold)
  }

  selectTop(cut: Cut): Kept {
    return selectTop(this.#acc, cut)
  }

  quantizeInt4(grid: Int4Grid): Int4Codes {
    return quantizeInt4(this.#acc, grid)
  }

  packSigns(bit: number): Uint8Array<ArrayBuffer> {
    return packSigns(this.#acc, bit)
  }

  pairwiseAbsSum(first: number, count: number): number {
    return pairwiseAbsSum(this.#acc, first, count)
  }

  errorAgainst(dtype: Dtype, tuned: Uint8Array, stored: FloatDtype): FrameError {
    const rounded = new Float32Array(this.#acc.length)
    widen(stored, this.store(stored), rounded.length, rounded)
    return errorBetween(rounded, this.#widened(dtype, tuned))
  }

  sumOfSquares(): number {
    return sumOfSquares(this.#acc)
  }

  #widened(dtype: Dtype, bytes: Uint8Array): Float32Array {
    checkElements(dtype, bytes, this.#acc.length)
    const values = new Float32Array(this.#acc.length)
    widen(dtype, bytes, values.length, values)
    return values
  }
}
