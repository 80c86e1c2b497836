import type { Cut, Extremes, FrameError, Int4Codes, Int4Grid, Kept, Ranks } from './machine.ts'

/** The encoders' operations in plain TypeScript; what each means is said at `FrameMachine`. */
const f = Math.fround
const MAGNITUDE = 0x7fffffff

/** See `FrameMachine.histogramHigh`. */
export function histogramHigh(values: Float32Array, into: Uint32Array): void {
  const bits = bitsOf(values)
  for (let e = 0; e < bits.length; e++) into[(bits[e]! >>> 15) & 0xffff]!++
}

/** See `FrameMachine.histogramLow`. */
export function histogramLow(
  values: Float32Array,
  high: number,
  positive: Uint32Array,
  negative: Uint32Array,
): Extremes {
  const bits = bitsOf(values)
  let min = Infinity
  let max = -Infinity
  for (let e = 0; e < bits.length; e++) {
    const b = bits[e]!
    const bin = (b >>> 15) & 0xffff
    if (bin === high) (b >>> 31 ? negative : positive)[b & 0x7fff]!++
    if (bin >= high) continue
    min = Math.min(min, values[e]!)
    max = Math.max(max, values[e]!)
  }
  return { min, max }
}

/** See `FrameMachine.countAbove`. */
export function countAbove(values: Float32Array, threshold: number): Ranks {
  let above = 0
  let positiveTies = 0
  let negativeTies = 0
  for (const b of bitsOf(values)) {
    const magnitude = b & MAGNITUDE
    if (magnitude > threshold) above++
    else if (magnitude === threshold) b >>> 31 ? negativeTies++ : positiveTies++
  }
  return { above, positiveTies, negativeTies }
}

/** See `FrameMachine.selectTop`. */
export function selectTop(values: Float32Array, cut: Cut): Kept {
  const offsets = keptOffsets(values, cut)
  return { offsets, values: Float32Array.from(offsets, e => values[e]!) }
}

/** See `FrameMachine.quantizeInt4`. */
export function quantizeInt4(values: Float32Array, grid: Int4Grid): Int4Codes {
  const kept = selectTop(values, grid)
  const packed = new Uint8Array((grid.nibble + values.length - kept.offsets.length + 1) >> 1)
  const min = f(grid.min)
  const range = f(grid.range)
  let outlier = 0
  let nibble: number = grid.nibble
  for (let e = 0; e < values.length; e++) {
    if (kept.offsets[outlier] === e) {
      outlier++
      continue
    }
    const code = grid.range < 1e-8 ? 0 : roundCode(f(f(f(values[e]! - min) / range) * 15))
    packed[nibble >> 1]! |= nibble & 1 ? code : code << 4
    nibble++
  }
  return { ...kept, packed }
}

/** See `FrameMachine.packSigns`. */
export function packSigns(values: Float32Array, bit: number): Uint8Array<ArrayBuffer> {
  const packed = new Uint8Array((bit + values.length + 7) >> 3)
  for (let e = 0; e < values.length; e++) {
    if (!(values[e]! < 0)) packed[(bit + e) >> 3]! |= 128 >> ((bit + e) & 7)
  }
  return packed
}

/** See `FrameMachine.pairwiseAbsSum`. Source: numpy `loops_utils.h.src`, `pairwise_sum`. */
export function pairwiseAbsSum(values: Float32Array, first: number, count: number): number {
  if (count > 128) {
    const half = Math.floor(count / 2)
    const left = half - (half % 8)
    const rest = pairwiseAbsSum(values, first + left, count - left)
    return f(pairwiseAbsSum(values, first, left) + rest)
  }
  const at = (i: number): number => Math.abs(values[first + i]!)
  const whole = count - (count % 8)
  let sum = 0
  if (whole > 0) {
    const r = Float32Array.from({ length: 8 }, (_, k) => at(k))
    for (let i = 8; i < whole; i++) r[i % 8]! += at(i)
    const low = f(f(r[0]! + r[1]!) + f(r[2]! + r[3]!))
    sum = f(low + f(f(r[4]! + r[5]!) + f(r[6]! + r[7]!)))
  }
  for (let i = whole; i < count; i++) sum = f(sum + at(i))
  return sum
}

/** The error between two runs of the same length: element e goes to sum e mod 4, then (0 + 1) + (2 + 3). */
export function errorBetween(actual: Float32Array, expected: Float32Array): FrameError {
  const sums = new Float64Array(4)
  let maxAbs = 0
  for (let e = 0; e < actual.length; e++) {
    const difference = actual[e]! - expected[e]!
    if (!Number.isFinite(actual[e]!) || !Number.isFinite(expected[e]!)) continue
    sums[e & 3]! += difference * difference
    maxAbs = Math.max(maxAbs, Math.abs(difference))
  }
  return { squaredError: total(sums), maxAbs }
}

/** See `FrameMachine.sumOfSquares`; summed in the order of {@link errorBetween}. */
export function sumOfSquares(values: Float32Array): number {
  const sums = new Float64Array(4)
  for (let e = 0; e < values.length; e++) {
    if (Number.isFinite(values[e]!)) sums[e & 3]! += values[e]! * values[e]!
  }
  return total(sums)
}

function total(sums: Float64Array): number {
  return sums[0]! + sums[1]! + (sums[2]! + sums[3]!)
}

function keptOffsets(values: Float32Array, cut: Cut): Uint32Array<ArrayBuffer> {
  const offsets: number[] = []
  const ties = [cut.takePositive, cut.takeNegative]
  const bits = bitsOf(values)
  for (let e = 0; e < bits.length; e++) {
    const magnitude = bits[e]! & MAGNITUDE
    const tie = magnitude === cut.threshold && ties[bits[e]! >>> 31]!-- > 0
    if (tie || magnitude > cut.threshold) offsets.push(e)
  }
  return Uint32Array.from(offsets)
}

/** Nearest of 0..15, half to even; 0 for NaN. */
function roundCode(x: number): number {
  if (!(x > 0)) return 0
  const below = Math.floor(Math.min(x, 15))
  const rest = Math.min(x, 15) - below
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length)
}
