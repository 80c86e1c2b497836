import { loadF16 } from './cast'
import { constant, LOW_NIBBLE, SHIFTS, SIGN } from './lanes'
import { A, ACC, B, BLOCK, C, DENSE, OFFSETS, OUT, PLANES, SPREAD, VALUES } from './memory'

/**
 * Reads the int64 indices at A from number `from` on that lie within elements [0, end) of the frame, which starts at
 * element `first` of its tensor, and leaves their offsets, counted from element `begin`, at OFFSETS.
 * Returns how many, or -1 if they do not strictly increase from `begin` on.
 */
function scan(from: i32, listed: i32, first: i64, begin: i32, end: i32): i32 {
  let last = <i64>begin - 1
  let at = A + from * 8
  let to = OFFSETS
  for (const stop = A + listed * 8; at < stop; at += 8, to += 4) {
    const element = load<i64>(at) - first
    if (element <= last) return -1
    if (element >= <i64>end) break
    store<i32>(to, <i32>element - begin)
    last = element
  }
  return (to - OFFSETS) >> 2
}

/** Values at VALUES become acc + value, for the `count` offsets at OFFSETS; `acc` is the block's first element. */
// @ts-ignore: decorator
@inline function sums(acc: i32, count: i32): void {
  for (let j = 0; j < count * 4; j += 4) {
    store<f32>(VALUES + j, load<f32>(acc + (load<i32>(OFFSETS + j) << 2)) + load<f32>(VALUES + j))
  }
}

// @ts-ignore: decorator
@inline function scatter(acc: i32, count: i32): void {
  for (let j = 0; j < count * 4; j += 4) {
    store<i32>(acc + (load<i32>(OFFSETS + j) << 2), load<i32>(VALUES + j))
  }
}

/** Nibbles of `bytes` bytes at `from`, one a byte, high first, to DENSE. */
function expand(from: i32, bytes: i32): void {
  const low = constant(LOW_NIBBLE)
  let to = DENSE
  for (const end = from + bytes; from < end; from += 16, to += 32) {
    const packed = v128.load(from)
    const highs = v128.and(i16x8.shr_u(packed, 4), low)
    const lows = v128.and(packed, low)
    v128.store(to, v128.shuffle<i8>(highs, lows, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23))
    v128.store(to, v128.shuffle<i8>(highs, lows, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 16)
  }
}

/**
 * Moves the codes at `from` to SPREAD, `count` elements in all, leaving a gap at each of the `gaps` offsets. Whole
 * vectors are moved, at least one for each run, so that short runs take no branch: what they write too much is
 * overwritten by the next run.
 */
function spread(from: i32, count: i32, gaps: i32): void {
  let to = SPREAD
  for (let j = 0; j <= gaps; j++) {
    const stop = SPREAD + (j < gaps ? load<i32>(OFFSETS + (j << 2)) : count)
    const run = stop - to
    v128.store(to, v128.load(from))
    for (let k = 16; k < run; k += 16) v128.store(to + k, v128.load(from + k))
    from += run
    to = stop + 1
  }
}

/** acc += what the code of each element stands for. */
function addCodes(acc: i32, codes: i32, count: i32): void {
  const plane0 = v128.load(PLANES)
  const plane1 = v128.load(PLANES, 16)
  const plane2 = v128.load(PLANES, 32)
  const plane3 = v128.load(PLANES, 48)
  for (const end = acc + count * 4; acc < end; acc += 64, codes += 16) {
    const code = v128.load(codes)
    const byte0 = i8x16.swizzle(plane0, code)
    const byte1 = i8x16.swizzle(plane1, code)
    const byte2 = i8x16.swizzle(plane2, code)
    const byte3 = i8x16.swizzle(plane3, code)
    const half0 = v128.shuffle<i8>(byte0, byte1, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
    const half1 = v128.shuffle<i8>(byte0, byte1, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
    const half2 = v128.shuffle<i8>(byte2, byte3, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
    const half3 = v128.shuffle<i8>(byte2, byte3, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
    v128.store(acc, f32x4.add(v128.load(acc), v128.shuffle<i16>(half0, half2, 0, 8, 1, 9, 2, 10, 3, 11)))
    v128.store(acc, f32x4.add(v128.load(acc, 16), v128.shuffle<i16>(half0, half2, 4, 12, 5, 13, 6, 14, 7, 15)), 16)
    v128.store(acc, f32x4.add(v128.load(acc, 32), v128.shuffle<i16>(half1, half3, 0, 8, 1, 9, 2, 10, 3, 11)), 32)
    v128.store(acc, f32x4.add(v128.load(acc, 48), v128.shuffle<i16>(half1, half3, 4, 12, 5, 13, 6, 14, 7, 15)), 48)
  }
}

/**
 * acc += an int4 delta: `listed` outliers with their int64 indices at A and float16 values at B, the packed codes of
 * the other elements at C, the first in nibble `nibble`. Returns 1, or 0 if the indices do not strictly increase
 * within the frame, and then the accumulator is of no use.
 */
export function addInt4(count: i32, first: i64, listed: i32, nibble: i32): i32 {
  let at = 0
  let code = nibble
  for (let begin = 0; begin < count; begin += BLOCK) {
    const elements = min(BLOCK, count - begin)
    const outliers = scan(at, listed, first, begin, begin + elements)
    if (outliers < 0) return 0
    const acc = ACC + begin * 4
    const codes = elements - outliers
    loadF16(VALUES, B + at * 2, outliers)
    sums(acc, outliers)
    expand(C + (code >> 1), (codes + (code & 1) + 1) >> 1)
    spread(DENSE + (code & 1), elements, outliers)
    addCodes(acc, SPREAD, elements)
    scatter(acc, outliers)
    at += outliers
    code += codes
  }
  return i32(at == listed)
}

/** acc += a sparse delta: int64 indices at A, float32 values at B, +0 elsewhere. Returns as {@link addInt4}. */
export function addSparse(count: i32, first: i64, listed: i32): i32 {
  const zero = f32x4.splat(0)
  let at = 0
  for (let begin = 0; begin < count; begin += BLOCK) {
    const elements = min(BLOCK, count - begin)
    const kept = scan(at, listed, first, begin, begin + elements)
    if (kept < 0) return 0
    let acc = ACC + begin * 4
    memory.copy(VALUES, B + at * 4, kept * 4)
    sums(acc, kept)
    for (let to = acc, end = acc + elements * 4; to < end; to += 16) v128.store(to, f32x4.add(v128.load(to), zero))
    scatter(acc, kept)
    at += kept
  }
  return i32(at == listed)
}

/** 32 bits from bit `bit` of the signs at A on, the first as the most significant. */
// @ts-ignore: decorator
@inline function window(bit: i32): i32 {
  return <i32>((bswap<u64>(load<u64>(A + (bit >> 3))) << (bit & 7)) >> 32)
}

/**
 * acc += a 1-bit delta: signs at A, most significant first, the first at bit `bit`; `rows` scales (float16) at B, the
 * first for `head` elements (or what there is), the others for `columns` each.
 */
export function addQuantized(count: i32, bit: i32, head: i32, columns: i32, rows: i32): void {
  const sign = constant(SIGN)
  const places = constant(SHIFTS)
  loadF16(OUT, B, rows)
  let acc = ACC
  const end = ACC + count * 4
  let rowEnd = acc + min(head, count) * 4
  for (let scale = OUT; acc < end; scale += 4) {
    const size = load<i32>(scale)
    const sizes = i32x4.splat(size)
    const whole = rowEnd - 127
    for (; acc < whole; acc += 128, bit += 32) {
      let signs = i32x4.mul(i32x4.splat(window(bit)), places)
      for (let k = 0; k < 128; k += 16) {
        const delta = v128.xor(sizes, v128.andnot(sign, signs))
        v128.store(acc + k, f32x4.add(v128.load(acc + k), delta))
        signs = i32x4.shl(signs, 4)
      }
    }
    let signs = window(bit)
    for (; acc < rowEnd; acc += 4, bit++) {
      store<f32>(acc, load<f32>(acc) + reinterpret<f32>(size ^ (~signs & 0x80000000)))
      signs <<= 1
    }
    rowEnd = min(end, rowEnd + columns * 4)
  }
}
