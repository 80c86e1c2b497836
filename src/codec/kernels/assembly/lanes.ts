/**
 * The casts, four lanes at a time. Constants live in memory: the optimizer would inline vector literals into the
 * loops, where the engine builds them anew at every use. A kernel loads what it needs into locals before its loop.
 */
const TABLE = memory.data<u32>([
  0x00007fff, 0x00007fff, 0x00007fff, 0x00007fff, // HALF_MAGNITUDE
  0x0f800000, 0x0f800000, 0x0f800000, 0x0f800000, // HALF_INFINITY << 13
  0x38000000, 0x38000000, 0x38000000, 0x38000000, // 127 - 15 << 23
  0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000, // INFINITY
  0x80000000, 0x80000000, 0x80000000, 0x80000000, // SIGN
  0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff, // MAGNITUDE
  0x00000001, 0x00000001, 0x00000001, 0x00000001, // ONE
  0x00400000, 0x00400000, 0x00400000, 0x00400000, // QUIET
  0x47800000, 0x47800000, 0x47800000, 0x47800000, // 65536
  0x38800000, 0x38800000, 0x38800000, 0x38800000, // 2^-14
  0x3f000000, 0x3f000000, 0x3f000000, 0x3f000000, // 0.5
  0xc8000fff, 0xc8000fff, 0xc8000fff, 0xc8000fff, // (15 - 127 << 23) + 0xfff
  0x00007c00, 0x00007c00, 0x00007c00, 0x00007c00, // infinity as float16
  0x00000200, 0x00000200, 0x00000200, 0x00000200, // quiet bit of float16
  0x000003ff, 0x000003ff, 0x000003ff, 0x000003ff, // mantissa of float16
  0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, // 1.5 * 2^23
  0x41700000, 0x41700000, 0x41700000, 0x41700000, // 15
  0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, // low nibble of each byte
  0x00ff00ff, 0x00ff00ff, 0x00ff00ff, 0x00ff00ff, // low byte of each 16 bits
  0x00000001, 0x00000002, 0x00000004, 0x00000008, // shifts, as factors
], 16)

// @ts-ignore: decorator
@inline export function constant(index: i32): v128 {
  return v128.load(TABLE + 16 * index)
}

export const HALF_MAGNITUDE: i32 = 0
export const HALF_INFINITY: i32 = 1
export const HALF_TO_FLOAT: i32 = 2
export const INFINITE: i32 = 3
export const SIGN: i32 = 4
export const MAGNITUDE: i32 = 5
export const ONE: i32 = 6
export const QUIET: i32 = 7
export const HALF_OVERFLOW: i32 = 8
export const HALF_NORMAL: i32 = 9
export const HALF_DENORMAL_MAGIC: i32 = 10
export const HALF_REBIAS: i32 = 11
export const HALF_INFINITY_BITS: i32 = 12
export const HALF_QUIET: i32 = 13
export const HALF_MANTISSA: i32 = 14
export const ROUNDER: i32 = 15
export const CODE: i32 = 16
export const LOW_NIBBLE: i32 = 17
export const LOW_BYTE: i32 = 18
export const SHIFTS: i32 = 19
/** The same bits as HALF_MAGNITUDE. */
export const BF16_BIAS: i32 = 0

// @ts-ignore: decorator
@inline export function widenBf16Low(v: v128): v128 {
  return i32x4.shl(i32x4.extend_low_i16x8_u(v), 16)
}

// @ts-ignore: decorator
@inline export function widenBf16High(v: v128): v128 {
  return i32x4.shl(i32x4.extend_high_i16x8_u(v), 16)
}

/**
 * float16 bits in 32-bit lanes to float32. Exact, and without subnormal float32 operands, which are slow: a subnormal
 * float16 becomes the mantissa of a number in [2^-14, 2^-13), from which 2^-14 is taken away. NaN keeps its payload
 * and turns quiet.
 */
// @ts-ignore: decorator
@inline export function widenF16(
  half: v128, magnitude: v128, infinity: v128, rebias: v128, infinite: v128, normal: v128, quiet: v128,
): v128 {
  const shifted = i32x4.shl(v128.and(half, magnitude), 13)
  const sign = i32x4.shl(v128.andnot(half, magnitude), 16)
  const rebiased = i32x4.add(shifted, rebias)
  const small = f32x4.sub(v128.or(shifted, normal), normal)
  const finite = v128.bitselect(small, rebiased, i32x4.lt_s(rebiased, normal))
  const special = v128.and(i32x4.ge_s(shifted, infinity), infinite)
  const nan = v128.and(i32x4.gt_s(shifted, infinity), quiet)
  return v128.or(v128.or(finite, special), v128.or(nan, sign))
}

/** float32 to bfloat16 bits in 32-bit lanes: nearest even; NaN keeps its sign and top payload bits and turns quiet. */
// @ts-ignore: decorator
@inline export function narrowBf16(v: v128, bias: v128, one: v128, quiet: v128): v128 {
  const odd = v128.and(i32x4.shr_u(v, 16), one)
  const rounded = i32x4.add(i32x4.add(v, bias), odd)
  return i32x4.shr_u(v128.bitselect(v128.or(v, quiet), rounded, f32x4.ne(v, v)), 16)
}

/**
 * float32 to float16 bits in 32-bit lanes: nearest even, overflow to infinity, subnormals by adding 0.5, whose last
 * bit is the last bit of a subnormal float16. NaN keeps its sign and top payload bits and turns quiet.
 */
// @ts-ignore: decorator
@inline export function narrowF16(
  v: v128, magnitude: v128, rebias: v128, one: v128, magic: v128, normal: v128, overflow: v128, infinity: v128,
  quiet: v128, mantissa: v128,
): v128 {
  const abs = v128.and(v, magnitude)
  const sign = i32x4.shr_u(v128.xor(v, abs), 16)
  const top = i32x4.shr_u(abs, 13)
  const rounded = i32x4.shr_u(i32x4.add(i32x4.add(abs, rebias), v128.and(top, one)), 13)
  const small = i32x4.sub(f32x4.add(abs, magic), magic)
  const finite = v128.bitselect(small, rounded, i32x4.lt_s(abs, normal))
  const nan = v128.and(v128.or(v128.and(top, mantissa), quiet), f32x4.ne(v, v))
  const bits = v128.bitselect(v128.or(infinity, nan), finite, i32x4.ge_s(abs, overflow))
  return v128.or(bits, sign)
}
