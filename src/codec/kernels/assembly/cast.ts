import {
  BF16_BIAS,
  constant,
  HALF_DENORMAL_MAGIC,
  HALF_INFINITY,
  HALF_INFINITY_BITS,
  HALF_MAGNITUDE,
  HALF_MANTISSA,
  HALF_NORMAL,
  HALF_OVERFLOW,
  HALF_QUIET,
  HALF_REBIAS,
  HALF_TO_FLOAT,
  INFINITE,
  MAGNITUDE,
  narrowBf16,
  narrowF16,
  ONE,
  QUIET,
  widenBf16High,
  widenBf16Low,
  widenF16,
} from './lanes'

/**
 * `count` bfloat16 values at `from` as float32 at `to`. Like all kernels here, it may write up to 15 elements more,
 * which the next block or nobody reads.
 */
export function loadBF16(to: i32, from: i32, count: i32): void {
  for (const end = to + count * 4; to < end; to += 64, from += 32) {
    const a = v128.load(from)
    const b = v128.load(from, 16)
    v128.store(to, widenBf16Low(a))
    v128.store(to, widenBf16High(a), 16)
    v128.store(to, widenBf16Low(b), 32)
    v128.store(to, widenBf16High(b), 48)
  }
}

/** `count` float16 values at `from` as float32 at `to`. */
export function loadF16(to: i32, from: i32, count: i32): void {
  const magnitude = constant(HALF_MAGNITUDE)
  const infinity = constant(HALF_INFINITY)
  const rebias = constant(HALF_TO_FLOAT)
  const infinite = constant(INFINITE)
  const normal = constant(HALF_NORMAL)
  const quiet = constant(QUIET)
  for (const end = to + count * 4; to < end; to += 32, from += 16) {
    const half = v128.load(from)
    const low = i32x4.extend_low_i16x8_u(half)
    const high = i32x4.extend_high_i16x8_u(half)
    v128.store(to, widenF16(low, magnitude, infinity, rebias, infinite, normal, quiet))
    v128.store(to, widenF16(high, magnitude, infinity, rebias, infinite, normal, quiet), 16)
  }
}

/** `count` float64 values at `from` as float32 at `to`, rounded to nearest even. */
export function loadF64(to: i32, from: i32, count: i32): void {
  for (const end = to + count * 4; to < end; to += 16, from += 32) {
    const low = f32x4.demote_f64x2_zero(v128.load(from))
    const high = f32x4.demote_f64x2_zero(v128.load(from, 16))
    v128.store(to, v128.shuffle<i64>(low, high, 0, 2))
  }
}

/** `count` float32 values at `from` as bfloat16 at `to`. */
export function storeBF16(to: i32, from: i32, count: i32): void {
  const bias = constant(BF16_BIAS)
  const one = constant(ONE)
  const quiet = constant(QUIET)
  for (const end = to + count * 2; to < end; to += 16, from += 32) {
    const low = narrowBf16(v128.load(from), bias, one, quiet)
    const high = narrowBf16(v128.load(from, 16), bias, one, quiet)
    v128.store(to, i16x8.narrow_i32x4_u(low, high))
  }
}

/** `count` float32 values at `from` as float16 at `to`. */
export function storeF16(to: i32, from: i32, count: i32): void {
  const magnitude = constant(MAGNITUDE)
  const rebias = constant(HALF_REBIAS)
  const one = constant(ONE)
  const magic = constant(HALF_DENORMAL_MAGIC)
  const normal = constant(HALF_NORMAL)
  const overflow = constant(HALF_OVERFLOW)
  const infinity = constant(HALF_INFINITY_BITS)
  const quiet = constant(HALF_QUIET)
  const mantissa = constant(HALF_MANTISSA)
  for (const end = to + count * 2; to < end; to += 16, from += 32) {
    const low = narrowF16(
      v128.load(from),
      magnitude,
      rebias,
      one,
      magic,
      normal,
      overflow,
      infinity,
      quiet,
      mantissa,
    )
    const high = narrowF16(
      v128.load(from, 16),
      magnitude,
      rebias,
      one,
      magic,
      normal,
      overflow,
      infinity,
      quiet,
      mantissa,
    )
    v128.store(to, i16x8.narrow_i32x4_u(low, high))
  }
}

/** `count` float32 values at `from` as float64 at `to`. */
export function storeF64(to: i32, from: i32, count: i32): void {
  for (const end = to + count * 8; to < end; to += 16, from += 8) {
    v128.store(to, f64x2.promote_low_f32x4(v128.load64_zero(from)))
  }
}

/** `count` float32 values at `from`, cast to bfloat16 and back, at `to`, which may be `from`. */
export function roundBF16(to: i32, from: i32, count: i32): void {
  const bias = constant(BF16_BIAS)
  const one = constant(ONE)
  const quiet = constant(QUIET)
  for (const end = to + count * 4; to < end; to += 16, from += 16) {
    v128.store(to, i32x4.shl(narrowBf16(v128.load(from), bias, one, quiet), 16))
  }
}

/** `count` float32 values at `from`, cast to float16 and back, at `to`, which may be `from`. */
export function roundF16(to: i32, from: i32, count: i32): void {
  const magnitude = constant(MAGNITUDE)
  const rebias = constant(HALF_REBIAS)
  const one = constant(ONE)
  const magic = constant(HALF_DENORMAL_MAGIC)
  const normal = constant(HALF_NORMAL)
  const overflow = constant(HALF_OVERFLOW)
  const infinity = constant(HALF_INFINITY_BITS)
  const halfQuiet = constant(HALF_QUIET)
  const mantissa = constant(HALF_MANTISSA)
  const halfMagnitude = constant(HALF_MAGNITUDE)
  const halfInfinity = constant(HALF_INFINITY)
  const back = constant(HALF_TO_FLOAT)
  const infinite = constant(INFINITE)
  const quiet = constant(QUIET)
  for (const end = to + count * 4; to < end; to += 16, from += 16) {
    const v = v128.load(from)
    const half = narrowF16(v, magnitude, rebias, one, magic, normal, overflow, infinity, halfQuiet, mantissa)
    v128.store(to, widenF16(half, halfMagnitude, halfInfinity, back, infinite, normal, quiet))
  }
}

/** to = from - to, `count` float32 values. */
export function subtractFrom(to: i32, from: i32, count: i32): void {
  for (const end = to + count * 4; to < end; to += 16, from += 16) {
    v128.store(to, f32x4.sub(v128.load(from), v128.load(to)))
  }
}
