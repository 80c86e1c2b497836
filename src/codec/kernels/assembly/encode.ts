import { CODE, constant, INFINITE, LOW_BYTE, MAGNITUDE, ROUNDER } from './lanes'
import { A, ACC, B, C, OUT, RESULTS, SPREAD } from './memory'

/** Four masks of 32-bit lanes as 16 bits, the first lane as the least. */
// @ts-ignore: decorator
@inline function bits16(a: v128, b: v128, c: v128, d: v128): i32 {
  return i8x16.bitmask(i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d)))
}

/** The bits of those of 16 elements that exist, where `left` of the frame are left. */
// @ts-ignore: decorator
@inline function existing(left: i32): i32 {
  return left >= 16 ? 0xffff : (1 << left) - 1
}

/** Which of the 16 values at `at` have a magnitude above, and which exactly at the threshold. */
// @ts-ignore: decorator
@inline function above16(at: i32, threshold: v128, magnitude: v128): i32 {
  return bits16(
    i32x4.gt_s(v128.and(v128.load(at), magnitude), threshold),
    i32x4.gt_s(v128.and(v128.load(at, 16), magnitude), threshold),
    i32x4.gt_s(v128.and(v128.load(at, 32), magnitude), threshold),
    i32x4.gt_s(v128.and(v128.load(at, 48), magnitude), threshold),
  )
}

// @ts-ignore: decorator
@inline function ties16(at: i32, threshold: v128, magnitude: v128): i32 {
  return bits16(
    i32x4.eq(v128.and(v128.load(at), magnitude), threshold),
    i32x4.eq(v128.and(v128.load(at, 16), magnitude), threshold),
    i32x4.eq(v128.and(v128.load(at, 32), magnitude), threshold),
    i32x4.eq(v128.and(v128.load(at, 48), magnitude), threshold),
  )
}

/** The sign bits of the 16 values at `at`. */
// @ts-ignore: decorator
@inline function signs16(at: i32): i32 {
  return i32x4.bitmask(v128.load(at)) | (i32x4.bitmask(v128.load(at, 16)) << 4) |
    (i32x4.bitmask(v128.load(at, 32)) << 8) | (i32x4.bitmask(v128.load(at, 48)) << 12)
}

/** Leaves at RESULTS (i32): magnitudes above the threshold, ties with sign bit 0, ties with sign bit 1. */
export function countAbove(count: i32, threshold: i32): void {
  const magnitude = constant(MAGNITUDE)
  const limit = i32x4.splat(threshold)
  let above = 0
  let positive = 0
  let negative = 0
  for (let e = 0, at = ACC; e < count; e += 16, at += 64) {
    const valid = existing(count - e)
    above += popcnt(above16(at, limit, magnitude) & valid)
    const ties = ties16(at, limit, magnitude) & valid
    if (ties) {
      const signs = signs16(at)
      positive += popcnt(ties & ~signs)
      negative += popcnt(ties & signs)
    }
  }
  store<i32>(RESULTS, above)
  store<i32>(RESULTS, positive, 4)
  store<i32>(RESULTS, negative, 8)
}

/** Ties that the running selection may still take. */
let positiveLeft: i32 = 0
let negativeLeft: i32 = 0

/** The first `most` of the bits that are set. */
function firstBits(bits: i32, most: i32): i32 {
  let rest = bits
  for (let taken = 0; taken < most && rest; taken++) rest &= rest - 1
  return bits ^ rest
}

/** Which of the 16 values at `at` the selection keeps. */
// @ts-ignore: decorator
@inline function kept16(at: i32, threshold: v128, magnitude: v128, valid: i32): i32 {
  let kept = above16(at, threshold, magnitude) & valid
  const ties = ties16(at, threshold, magnitude) & valid
  if (ties && (positiveLeft | negativeLeft)) {
    const signs = signs16(at)
    const positive = firstBits(ties & ~signs, positiveLeft)
    const negative = firstBits(ties & signs, negativeLeft)
    positiveLeft -= popcnt(positive)
    negativeLeft -= popcnt(negative)
    kept |= positive | negative
  }
  return kept
}

/** Leaves the offsets of the kept elements at A (i32), their values at B, and returns how many they are. */
export function selectTop(count: i32, threshold: i32, positive: i32, negative: i32): i32 {
  const magnitude = constant(MAGNITUDE)
  const limit = i32x4.splat(threshold)
  positiveLeft = positive
  negativeLeft = negative
  let listed = 0
  for (let e = 0, at = ACC; e < count; e += 16, at += 64) {
    for (let kept = kept16(at, limit, magnitude, existing(count - e)); kept; kept &= kept - 1, listed += 4) {
      const lane = ctz(kept)
      store<i32>(A + listed, e + lane)
      store<i32>(B + listed, load<i32>(at + (lane << 2)))
    }
  }
  return listed >> 2
}

/**
 * The code of four values. After clipping to 0..15, adding 1.5 * 2^23 rounds half to even and leaves the code in the
 * last bits; pmax and pmin let NaN fall to 0.
 */
// @ts-ignore: decorator
@inline function code(v: v128, min: v128, range: v128, fifteen: v128, zero: v128, rounder: v128, mask: v128): v128 {
  const scaled = f32x4.mul(f32x4.div(f32x4.sub(v, min), range), fifteen)
  const clipped = f32x4.pmin(fifteen, f32x4.pmax(zero, scaled))
  return v128.and(f32x4.add(clipped, rounder), mask)
}

/** Codes at OUT, one a byte, `bytes` of them, to packed nibbles at C, high first. */
function pack(bytes: i32): void {
  const low = constant(LOW_BYTE)
  for (let from = OUT, to = C, end = OUT + bytes; from < end; from += 32, to += 16) {
    const a = v128.load(from)
    const b = v128.load(from, 16)
    const first = v128.and(v128.or(i16x8.shl(a, 4), i16x8.shr_u(a, 8)), low)
    const second = v128.and(v128.or(i16x8.shl(b, 4), i16x8.shr_u(b, 8)), low)
    v128.store(to, i8x16.narrow_i16x8_u(first, second))
  }
}

/**
 * Leaves offsets and values as {@link selectTop} and the packed codes of the other elements at C. `mask` is 15, or 0 to
 * make all codes 0. Returns how many elements are kept.
 */
export function quantizeInt4(
  count: i32, threshold: i32, positive: i32, negative: i32, min: f32, range: f32, mask: i32, nibble: i32,
): i32 {
  const magnitude = constant(MAGNITUDE)
  const rounder = constant(ROUNDER)
  const fifteen = constant(CODE)
  const zero = f32x4.splat(0)
  const limit = i32x4.splat(threshold)
  const mins = f32x4.splat(min)
  const ranges = f32x4.splat(range)
  const masks = i32x4.splat(mask)
  positiveLeft = positive
  negativeLeft = negative
  let listed = 0
  store<u8>(OUT, 0)
  let to = OUT + nibble
  for (let e = 0, at = ACC; e < count; e += 16, at += 64) {
    const left = count - e
    const a = code(v128.load(at), mins, ranges, fifteen, zero, rounder, masks)
    const b = code(v128.load(at, 16), mins, ranges, fifteen, zero, rounder, masks)
    const c = code(v128.load(at, 32), mins, ranges, fifteen, zero, rounder, masks)
    const d = code(v128.load(at, 48), mins, ranges, fifteen, zero, rounder, masks)
    const codes = i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d))
    let kept = kept16(at, limit, magnitude, existing(left))
    v128.store(to, codes)
    if (kept) {
      v128.store(SPREAD, codes)
      let lane = 0
      for (; kept; kept &= kept - 1, listed += 4) {
        const next = ctz(kept)
        store<i32>(A + listed, e + next)
        store<i32>(B + listed, load<i32>(at + (next << 2)))
        v128.store(to, v128.load(SPREAD + lane))
        to += next - lane
        lane = next + 1
      }
      v128.store(to, v128.load(SPREAD + lane))
      to -= lane
    }
    to += left < 16 ? left : 16
  }
  v128.store(to, zero)
  pack(to - OUT)
  return listed >> 2
}

/**
 * For the values with bits(|v|) >>> 15 = `high`: leaves their bits at OUT and returns how many they are. Leaves the
 * extremes of those below at RESULTS: four float32 minima, then four maxima.
 */
export function collectHigh(count: i32, high: i32): i32 {
  const magnitude = constant(MAGNITUDE)
  const highs = i32x4.splat(high)
  const most = constant(INFINITE)
  const least = f32x4.neg(most)
  let low = most
  let top = least
  let found = OUT
  for (let k = 0; k < 64; k += 4) store<u32>(ACC + count * 4 + k, 0x7fffffff)
  for (let e = 0, at = ACC; e < count; e += 4, at += 16) {
    const v = v128.load(at)
    const bin = i32x4.shr_u(v128.and(v, magnitude), 15)
    const below = i32x4.lt_s(bin, highs)
    low = f32x4.min(low, v128.bitselect(v, most, below))
    top = f32x4.max(top, v128.bitselect(v, least, below))
    let equal = i32x4.bitmask(i32x4.eq(bin, highs)) & existing(count - e)
    for (; equal; equal &= equal - 1, found += 4) store<i32>(found, load<i32>(at + (ctz(equal) << 2)))
  }
  v128.store(RESULTS, low)
  v128.store(RESULTS, top, 16)
  return (found - OUT) >> 2
}

/** Leaves the bits !(v < 0) at OUT, most significant first, the first at bit `bit` of the first byte. */
export function packSigns(count: i32, bit: i32): void {
  const zero = f32x4.splat(0)
  let to = OUT
  let carry = 0
  for (let e = 0, at = ACC; e < count; e += 16, at += 64, to += 2) {
    const negative = i8x16.narrow_i16x8_s(
      i16x8.narrow_i32x4_s(f32x4.lt(v128.load(at), zero), f32x4.lt(v128.load(at, 16), zero)),
      i16x8.narrow_i32x4_s(f32x4.lt(v128.load(at, 32), zero), f32x4.lt(v128.load(at, 48), zero)),
    )
    const reversed = v128.shuffle<i8>(negative, negative, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    let bits = ~i8x16.bitmask(reversed) & 0xffff
    if (count - e < 16) bits &= ~(0xffff >> (count - e))
    const shifted = bits << (8 - bit)
    store<u8>(to, carry | (shifted >> 16))
    store<u8>(to, shifted >> 8, 1)
    carry = shifted & 0xff
  }
  store<u8>(to, carry)
}

/** (0 + 1) + (2 + 3). */
// @ts-ignore: decorator
@inline function lanes(v: v128): f32 {
  return (f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1)) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3))
}

/** numpy's pairwise sum of the magnitudes of `count` values at `at`. */
export function pairwiseAbsSum(at: i32, count: i32): f32 {
  if (count > 128) {
    const left = (count >> 1) & ~7
    return pairwiseAbsSum(at, left) + pairwiseAbsSum(at + left * 4, count - left)
  }
  let sum: f32 = 0
  const end = at + count * 4
  if (count >= 8) {
    let low = f32x4.abs(v128.load(at))
    let high = f32x4.abs(v128.load(at, 16))
    for (at += 32; at <= end - 32; at += 32) {
      low = f32x4.add(low, f32x4.abs(v128.load(at)))
      high = f32x4.add(high, f32x4.abs(v128.load(at, 16)))
    }
    sum = lanes(low) + lanes(high)
  }
  for (; at < end; at += 4) sum += abs<f32>(load<f32>(at))
  return sum
}

/**
 * Adds the squared differences of `count` values at `actual` and `expected`, where both are finite, to the four sums
 * at RESULTS (float64, element e to sum e mod 4), and keeps the largest difference in the two lanes behind. `count` is
 * a multiple of 4 but in the last block; both runs are padded with zeros.
 */
export function addError(actual: i32, expected: i32, count: i32): void {
  const magnitude = constant(MAGNITUDE)
  const infinite = constant(INFINITE)
  const zero = f32x4.splat(0)
  v128.store(actual + count * 4, zero)
  v128.store(expected + count * 4, zero)
  let even = v128.load(RESULTS)
  let odd = v128.load(RESULTS, 16)
  let most = v128.load(RESULTS, 32)
  for (const end = actual + count * 4; actual < end; actual += 16, expected += 16) {
    const a = v128.load(actual)
    const b = v128.load(expected)
    const finite = v128.and(
      i32x4.lt_s(v128.and(a, magnitude), infinite),
      i32x4.lt_s(v128.and(b, magnitude), infinite),
    )
    const x = v128.and(a, finite)
    const y = v128.and(b, finite)
    const low = f64x2.sub(f64x2.promote_low_f32x4(x), f64x2.promote_low_f32x4(y))
    const high = f64x2.sub(upper(x), upper(y))
    even = f64x2.add(even, f64x2.mul(low, low))
    odd = f64x2.add(odd, f64x2.mul(high, high))
    most = f64x2.pmax(most, f64x2.pmax(f64x2.abs(low), f64x2.abs(high)))
  }
  v128.store(RESULTS, even)
  v128.store(RESULTS, odd, 16)
  v128.store(RESULTS, most, 32)
}

/** Leaves the four sums of squares of the finite values of the accumulator at RESULTS, as {@link addError} does. */
export function sumOfSquares(count: i32): void {
  const magnitude = constant(MAGNITUDE)
  const infinite = constant(INFINITE)
  let even = f64x2.splat(0)
  let odd = f64x2.splat(0)
  v128.store(ACC + count * 4, even)
  for (let at = ACC, end = ACC + count * 4; at < end; at += 16) {
    const v = v128.load(at)
    const finite = v128.and(v, i32x4.lt_s(v128.and(v, magnitude), infinite))
    const low = f64x2.promote_low_f32x4(finite)
    const high = upper(finite)
    even = f64x2.add(even, f64x2.mul(low, low))
    odd = f64x2.add(odd, f64x2.mul(high, high))
  }
  v128.store(RESULTS, even)
  v128.store(RESULTS, odd, 16)
}

/** Lanes 2 and 3 as float64. */
// @ts-ignore: decorator
@inline function upper(v: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<i64>(v, v, 1, 0))
}
