import {
  BITMAP, COUNTS, DECODING, ENCODING, HIGHER_LOWS, LOWS, RAW, RESULTS, STATES, SYMBOLS, TABLES, WORDS, WORDS_END,
} from './memory'

/**
 * The exponent-context coder: see `FORMAT.md`, `coded`. Lanes are 16 bits; counts are multiples of 16. Constants are loaded into
 * locals before a loop: see `lanes.ts`.
 */
const TABLE = memory.data<u16>([
  0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, // MAGNITUDE
  0x0001, 0x0001, 0x0001, 0x0001, 0x0001, 0x0001, 0x0001, 0x0001, // ONE
  0x0003, 0x0003, 0x0003, 0x0003, 0x0003, 0x0003, 0x0003, 0x0003, // THREE
  0x0004, 0x0004, 0x0004, 0x0004, 0x0004, 0x0004, 0x0004, 0x0004, // FOUR
  0x0007, 0x0007, 0x0007, 0x0007, 0x0007, 0x0007, 0x0007, 0x0007, // SEVEN
  0x000f, 0x000f, 0x000f, 0x000f, 0x000f, 0x000f, 0x000f, 0x000f, // FIFTEEN
  0x003f, 0x003f, 0x003f, 0x003f, 0x003f, 0x003f, 0x003f, 0x003f, // TOKEN
  0x0100, 0x0100, 0x0100, 0x0100, 0x0100, 0x0100, 0x0100, 0x0100, // PAIR: bytes 0, 1
  0x0200, 0x0000, 0x0200, 0x0000, 0x0200, 0x0000, 0x0200, 0x0000, // EXPONENT: 512, 32-bit
  0xffff, 0x0000, 0xffff, 0x0000, 0xffff, 0x0000, 0xffff, 0x0000, // LOW_HALF
  0x0001, 0x0000, 0x0001, 0x0000, 0x0001, 0x0000, 0x0001, 0x0000, // ONE32
  0x03ff, 0x0000, 0x03ff, 0x0000, 0x03ff, 0x0000, 0x03ff, 0x0000, // SLOT
  0x8000, 0x0000, 0x8000, 0x0000, 0x8000, 0x0000, 0x8000, 0x0000, // LEAST: the lower end of a state's interval
  0x1fff, 0x0000, 0x1fff, 0x0000, 0x1fff, 0x0000, 0x1fff, 0x0000, // BIAS: bits 8..20 of a decoding entry
  0x00ff, 0x0000, 0x00ff, 0x0000, 0x00ff, 0x0000, 0x00ff, 0x0000, // BYTE32
  0x0000, 0x0000, 0x0000, 0x4290, 0x0000, 0x0000, 0x0000, 0x4290, // MAGIC: 2^42 as float64
  0x0201, 0x0804, 0x2010, 0x8040, 0x0000, 0x0000, 0x0000, 0x0000, // POWER_LOW: low byte of 2^k, k = 0..15
  0x0000, 0x0000, 0x0000, 0x0000, 0x0201, 0x0804, 0x2010, 0x8040, // POWER_HIGH
  0x4080, 0x1020, 0x0408, 0x0102, 0x0000, 0x0000, 0x0000, 0x0000, // REVERSE: 2^(7 - k)
  0x0000, 0x0101, 0x0202, 0x0303, 0x0404, 0x0505, 0x0606, 0x0707, // TWICE: each byte's place twice
  0x0707, 0x0707, 0x0707, 0x0707, 0x0707, 0x0707, 0x0707, 0x0707, // SEVEN8
], 16)

const MAGNITUDE: i32 = 0
const ONE: i32 = 1
const THREE: i32 = 2
const FOUR: i32 = 3
const SEVEN: i32 = 4
const FIFTEEN: i32 = 5
const TOKEN: i32 = 6
const PAIR: i32 = 7
const EXPONENT: i32 = 8
const LOW_HALF: i32 = 9
const ONE32: i32 = 10
const SLOT: i32 = 11
const LEAST: i32 = 12
const BIAS: i32 = 13
const BYTE32: i32 = 14
const MAGIC: i32 = 15
const POWER_LOW: i32 = 16
const POWER_HIGH: i32 = 17
const REVERSE: i32 = 18
const TWICE: i32 = 19
const SEVEN8: i32 = 20

/** For each mask of four lanes, 16 bytes that move the next words to the low halves of its lanes. */
const REFILL = memory.data(256, 16)
/** For each mask of four lanes, 16 bytes that move the low halves of its lanes to the end of 8 bytes. */
const SPILL = memory.data(256, 16)
/** Two vectors of a scalar path. */
const SCALARS = memory.data(32, 16)

for (let mask = 0; mask < 16; mask++) {
  const taken = popcnt(mask)
  let word = 0
  for (let b = 0; b < 16; b++) {
    store<u8>(REFILL + (mask << 4) + b, 0x80)
    store<u8>(SPILL + (mask << 4) + b, 0x80)
  }
  for (let lane = 0; lane < 4; lane++) {
    if (!((mask >> lane) & 1)) continue
    for (let b = 0; b < 2; b++) {
      store<u8>(REFILL + (mask << 4) + lane * 4 + b, word * 2 + b)
      store<u8>(SPILL + (mask << 4) + (4 - taken + word) * 2 + b, lane * 4 + b)
    }
    word++
  }
}

// @ts-ignore: decorator
@inline function constant(index: i32): v128 {
  return v128.load(TABLE + 16 * index)
}

/** Compares `bytes` bytes at `x` and `y`, sets the bits of BITMAP for the blocks of 32 bytes that differ, and returns how many do. */
export function changedBlocks(x: i32, y: i32, bytes: i32): i32 {
  let changed = 0
  let to = BITMAP
  for (const end = x + bytes; x < end; to++) {
    let bits = 0
    for (let bit = 0; bit < 8; bit++, x += 32, y += 32) {
      const differ = v128.or(
        v128.xor(v128.load(x), v128.load(y)),
        v128.xor(v128.load(x, 16), v128.load(y, 16)),
      )
      bits |= (<i32>v128.any_true(differ) & <i32>(x < end)) << bit
    }
    store<u8>(to, bits)
    changed += popcnt(bits)
  }
  return changed
}

/** Moves the blocks of 32 bytes at `from` whose bit is set in BITMAP together at `to`. */
export function gatherBlocks(to: i32, from: i32, blocks: i32): void {
  for (let block = 0; block < blocks; block += 8) {
    for (let bits: i32 = load<u8>(BITMAP + (block >> 3)); bits; bits &= bits - 1) {
      const at = from + ((block + ctz(bits)) << 5)
      v128.store(to, v128.load(at))
      v128.store(to, v128.load(at, 16), 16)
      to += 32
    }
  }
}

/** The reverse of {@link gatherBlocks}; returns the end of what was read. */
export function scatterBlocks(to: i32, from: i32, blocks: i32): i32 {
  for (let block = 0; block < blocks; block += 8) {
    for (let bits: i32 = load<u8>(BITMAP + (block >> 3)); bits; bits &= bits - 1) {
      const at = to + ((block + ctz(bits)) << 5)
      v128.store(at, v128.load(from))
      v128.store(at, v128.load(from, 16), 16)
      from += 32
    }
  }
  return from
}

/** Upper halves of `count` 32-bit values at `from`, to `to`. */
export function upperHalves(to: i32, from: i32, count: i32): void {
  for (const end = to + count * 2; to < end; to += 16, from += 32) {
    const a = v128.load(from)
    const b = v128.load(from, 16)
    v128.store(to, v128.shuffle<i8>(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
  }
}

/** The two byte planes of the lower halves of `count` 32-bit values, `x` XOR `y`, at LOWS and HIGHER_LOWS. */
export function splitLows(x: i32, y: i32, count: i32): void {
  for (let i = 0; i < count; i += 4, x += 16, y += 16) {
    const d = v128.xor(v128.load(x), v128.load(y))
    const planes = v128.shuffle<i8>(d, d, 0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13)
    v128.store32_lane(LOWS + i, planes, 0)
    v128.store32_lane(HIGHER_LOWS + i, planes, 1)
  }
}

/** `count` 32-bit values at `to`, in place of their predictions: upper halves from `high`, lower ones XOR the two planes. */
export function joinHalves(to: i32, high: i32, count: i32): void {
  const low = constant(LOW_HALF)
  for (let i = 0; i < count; i += 4, to += 16, high += 8) {
    const planes = i8x16.shuffle(
      v128.load32_zero(LOWS + i), v128.load32_zero(HIGHER_LOWS + i),
      0, 16, 4, 4, 1, 17, 4, 4, 2, 18, 4, 4, 3, 19, 4, 4,
    )
    const lower = v128.and(v128.xor(v128.load(to), planes), low)
    v128.store(to, v128.or(lower, i32x4.shl(i32x4.extend_low_i16x8_u(v128.load64_zero(high)), 16)))
  }
}

/** Counts the exponents of lanes, one vector of every `stride` bytes, at COUNTS. */
export function countExponents(x: i32, count: i32, shift: i32, stride: i32): void {
  memory.fill(COUNTS, 0, 256 * 4)
  for (const end = x + count * 2; x < end; x += stride) {
    for (let b = 0; b < 16; b += 2) {
      const at = COUNTS + (((<i32>load<u16>(x + b) & 0x7fff) >> shift) << 2)
      store<u32>(at, load<u32>(at) + 1)
    }
  }
}

/** Raw bits of 16 lanes of which one has more than 7. Returns the accumulator; the bits in it and `out` come back in RESULTS. */
function wideBits(x: i32, y: i32, acc: u64, bits: i32, out: i32): u64 {
  for (const end = x + 32; x < end; x += 2, y += 2) {
    const before: i32 = load<u16>(x)
    const d = ((<i32>load<u16>(y) ^ (before & 0x8000)) & 0x7fff) - (before & 0x7fff)
    const m = d ^ (d >> 31)
    if (m < 8) continue
    const k = 29 - <i32>clz<u32>(m)
    acc |= <u64>(m & ((1 << k) - 1)) << bits
    bits += k
    if (bits >= 32) {
      store<u32>(out, <u32>acc)
      out += 4
      acc >>= 32
      bits -= 32
    }
  }
  store<i32>(RESULTS, bits)
  store<i32>(RESULTS, out, 4)
  return acc
}

/** Writes the symbols of `count` lanes to SYMBOLS and their raw bits to RAW; returns the bytes of those. */
export function takeSymbols(x: i32, y: i32, count: i32): i32 {
  const magnitude = constant(MAGNITUDE)
  const one = constant(ONE)
  const four = constant(FOUR)
  const seven = constant(SEVEN)
  const exponent = constant(EXPONENT)
  const lowHalf = constant(LOW_HALF)
  const one32 = constant(ONE32)
  const powerLow = constant(POWER_LOW)
  const powerHigh = constant(POWER_HIGH)
  let acc: u64 = 0
  let bits = 0
  let out = RAW
  let to = SYMBOLS
  for (const end = x + count * 2; x < end; x += 32, y += 32, to += 16) {
    // Twice 8 lanes: what moved, as token, sign and flip.
    let before = v128.load(x)
    let z = v128.xor(v128.load(y), v128.andnot(before, magnitude))
    let d = i16x8.sub(v128.and(z, magnitude), v128.and(before, magnitude))
    let neg = i16x8.shr_s(d, 15)
    let m = v128.xor(d, neg)
    let token = i16x8.max_s(i16x8.min_s(m, four), i16x8.narrow_i32x4_s(
      i32x4.sub(i32x4.shr_u(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_u(m)), 21), exponent),
      i32x4.sub(i32x4.shr_u(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_u(m)), 21), exponent),
    ))
    const ka = i16x8.sub_sat_u(i16x8.shr_u(token, 2), one)
    const symbolsA = v128.or(
      v128.or(i16x8.shl(i16x8.shr_u(z, 15), 7), i16x8.shl(token, 1)), v128.and(neg, one),
    )
    let power = i16x8.extend_low_i8x16_u(v128.swizzle(powerLow, i8x16.narrow_i16x8_u(ka, ka)))
    // Two neighbours become one number: the first's bits, and above them the second's.
    const pairsA = i32x4.dot_i16x8_s(
      v128.and(m, i16x8.sub(power, one)), v128.or(i32x4.shl(v128.and(power, lowHalf), 16), one32),
    )

    before = v128.load(x, 16)
    z = v128.xor(v128.load(y, 16), v128.andnot(before, magnitude))
    d = i16x8.sub(v128.and(z, magnitude), v128.and(before, magnitude))
    neg = i16x8.shr_s(d, 15)
    m = v128.xor(d, neg)
    token = i16x8.max_s(i16x8.min_s(m, four), i16x8.narrow_i32x4_s(
      i32x4.sub(i32x4.shr_u(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_u(m)), 21), exponent),
      i32x4.sub(i32x4.shr_u(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_u(m)), 21), exponent),
    ))
    const kb = i16x8.sub_sat_u(i16x8.shr_u(token, 2), one)
    const symbolsB = v128.or(
      v128.or(i16x8.shl(i16x8.shr_u(z, 15), 7), i16x8.shl(token, 1)), v128.and(neg, one),
    )
    power = i16x8.extend_low_i8x16_u(v128.swizzle(powerLow, i8x16.narrow_i16x8_u(kb, kb)))
    const pairsB = i32x4.dot_i16x8_s(
      v128.and(m, i16x8.sub(power, one)), v128.or(i32x4.shl(v128.and(power, lowHalf), 16), one32),
    )
    v128.store(to, i8x16.narrow_i16x8_u(symbolsA, symbolsB))

    if (v128.any_true(i16x8.gt_s(i16x8.max_s(ka, kb), seven))) {
      acc = wideBits(x, y, acc, bits, out)
      bits = load<i32>(RESULTS)
      out = load<i32>(RESULTS, 4)
      continue
    }
    const k2 = i16x8.narrow_i32x4_u(
      i32x4.extadd_pairwise_i16x8_s(ka), i32x4.extadd_pairwise_i16x8_s(kb),
    )
    const k2bytes = i8x16.narrow_i16x8_u(k2, k2)
    power = v128.or(
      i16x8.extend_low_i8x16_u(v128.swizzle(powerLow, k2bytes)),
      i16x8.shl(i16x8.extend_low_i8x16_u(v128.swizzle(powerHigh, k2bytes)), 8),
    )
    const fours = i32x4.dot_i16x8_s(
      i16x8.narrow_i32x4_s(pairsA, pairsB),
      v128.or(i32x4.shl(v128.and(power, lowHalf), 16), one32),
    )
    const k4 = i32x4.extadd_pairwise_i16x8_s(k2)
    const first = <u64><u32>i32x4.extract_lane(fours, 0)
      | (<u64><u32>i32x4.extract_lane(fours, 1) << i32x4.extract_lane(k4, 0))
    acc |= first << bits
    let filled = bits + i32x4.extract_lane(k4, 0) + i32x4.extract_lane(k4, 1)
    store<u64>(out, acc)
    if (filled >= 64) {
      acc = first >> (64 - bits)
      out += 8
      filled -= 64
    }
    bits = filled
    const second = <u64><u32>i32x4.extract_lane(fours, 2)
      | (<u64><u32>i32x4.extract_lane(fours, 3) << i32x4.extract_lane(k4, 2))
    acc |= second << bits
    filled = bits + i32x4.extract_lane(k4, 2) + i32x4.extract_lane(k4, 3)
    store<u64>(out, acc)
    if (filled >= 64) {
      acc = bits ? second >> (64 - bits) : 0
      out += 8
      filled -= 64
    }
    bits = filled
    if (bits >= 32) {
      store<u32>(out, <u32>acc)
      out += 4
      acc >>= 32
      bits -= 32
    }
  }
  store<u64>(out, acc)
  return out + ((bits + 7) >> 3) - RAW
}

/** Contexts of 16 lanes at `x`, one a byte. */
// @ts-ignore: decorator
@inline function contexts(x: i32, shift: i32, top: v128, magnitude: v128, fifteen: v128): v128 {
  const a = i16x8.sub(top, i16x8.shr_u(v128.and(v128.load(x), magnitude), shift))
  const b = i16x8.sub(top, i16x8.shr_u(v128.and(v128.load(x, 16), magnitude), shift))
  return i8x16.narrow_i16x8_u(i16x8.min_s(a, fifteen), i16x8.min_s(b, fifteen))
}

// @ts-ignore: decorator
@inline function countOne(index: i32, copy: i32): void {
  const at = COUNTS + (copy << 14) + (index << 2)
  store<u32>(at, load<u32>(at) + 1)
}

// @ts-ignore: decorator
@inline function countFour(index: i64): void {
  countOne(<i32>index & 0xffff, 0)
  countOne(<i32>(index >> 16) & 0xffff, 1)
  countOne(<i32>(index >> 32) & 0xffff, 2)
  countOne(<i32>(index >>> 48), 3)
}

/** Counts the symbols of `count` lanes in their contexts, at COUNTS: [context][symbol]. */
export function countSymbols(x: i32, count: i32, top: i32, shift: i32): void {
  // Four copies: neighbours are often equal, and an increment would wait for the one before.
  memory.fill(COUNTS, 0, 4 * 16 * 256 * 4)
  const magnitude = constant(MAGNITUDE)
  const fifteen = constant(FIFTEEN)
  const tops = i16x8.splat(<i16>top)
  let from = SYMBOLS
  for (const end = x + count * 2; x < end; x += 32, from += 16) {
    const c = contexts(x, shift, tops, magnitude, fifteen)
    const symbols = v128.load(from)
    // Symbol below, context above: the index of a counter.
    const low = v128.shuffle<i8>(symbols, c, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
    const high = v128.shuffle<i8>(symbols, c, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
    countFour(i64x2.extract_lane(low, 0))
    countFour(i64x2.extract_lane(low, 1))
    countFour(i64x2.extract_lane(high, 0))
    countFour(i64x2.extract_lane(high, 1))
  }
  for (let at = COUNTS; at < COUNTS + (1 << 14); at += 16) {
    const a = i32x4.add(v128.load(at), v128.load(at + (1 << 14)))
    const b = i32x4.add(v128.load(at + (2 << 14)), v128.load(at + (3 << 14)))
    v128.store(at, i32x4.add(a, b))
  }
}

/** The state before the symbols of four lanes, whose entries' last 8 bytes are `e01` and `e23`, and whose inverses are at `p0`..`p3`. */
// @ts-ignore: decorator
@inline function push(
  s: v128, f: v128, start: v128, p0: i32, p1: i32, p2: i32, p3: i32, magic: v128,
): v128 {
  // The quotient, exact: the inverse is a little too large, and 2^42 leaves the fraction's upper bits in the low word.
  const q01 = f64x2.add(f64x2.mul(
    f64x2.convert_low_i32x4_s(s), v128.load_lane<u64>(p1, v128.load64_zero(p0), 1),
  ), magic)
  const upper = v128.shuffle<i8>(s, s, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
  const q23 = f64x2.add(f64x2.mul(
    f64x2.convert_low_i32x4_s(upper), v128.load_lane<u64>(p3, v128.load64_zero(p2), 1),
  ), magic)
  const words = v128.shuffle<i8>(q01, q23, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
  const q = i32x4.shr_u(words, 10)
  return i32x4.add(i32x4.add(i32x4.shl(q, 10), i32x4.sub(s, i32x4.mul(q, f))), start)
}

// @ts-ignore: decorator
@inline function spill(s: v128, out: i32, mask: i32): void {
  v128.store64_lane(out - 8, v128.swizzle(s, v128.load(SPILL + (mask << 4))), 0)
}

/** Codes the symbols of `count` lanes, last to first, into words that end at WORDS_END; returns where they begin. */
export function encodeLanes(x: i32, count: i32, top: i32, shift: i32): i32 {
  const magnitude = constant(MAGNITUDE)
  const fifteen = constant(FIFTEEN)
  const magic = constant(MAGIC)
  const tables = v128.load(TABLES)
  const tops = i16x8.splat(<i16>top)
  const entries = i32x4.splat(ENCODING)
  let s0 = constant(LEAST), s1 = s0, s2 = s0, s3 = s0
  let out = WORDS_END
  let from = SYMBOLS + count
  for (let at = x + count * 2; at > x;) {
    at -= 32
    from -= 16
    const t = v128.swizzle(tables, contexts(at, shift, tops, magnitude, fifteen))
    const symbols = v128.load(from)
    const low = v128.shuffle<i8>(symbols, t, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
    const high = v128.shuffle<i8>(symbols, t, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)

    let a = i32x4.add(i32x4.shl(i32x4.extend_high_i16x8_u(high), 4), entries)
    let p0 = i32x4.extract_lane(a, 0), p1 = i32x4.extract_lane(a, 1)
    let p2 = i32x4.extract_lane(a, 2), p3 = i32x4.extract_lane(a, 3)
    let e01 = v128.load_lane<u64>(p1, v128.load64_zero(p0, 8), 1, 8)
    let e23 = v128.load_lane<u64>(p3, v128.load64_zero(p2, 8), 1, 8)
    let f = v128.shuffle<i8>(e01, e23, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
    let start = v128.shuffle<i8>(e01, e23, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
    let full = i32x4.ge_s(i32x4.shr_u(s3, 21), f)
    let mask = i32x4.bitmask(full)
    spill(s3, out, mask)
    out -= popcnt(mask) << 1
    s3 = push(v128.bitselect(i32x4.shr_u(s3, 16), s3, full), f, start, p0, p1, p2, p3, magic)

    a = i32x4.add(i32x4.shl(i32x4.extend_low_i16x8_u(high), 4), entries)
    p0 = i32x4.extract_lane(a, 0), p1 = i32x4.extract_lane(a, 1)
    p2 = i32x4.extract_lane(a, 2), p3 = i32x4.extract_lane(a, 3)
    e01 = v128.load_lane<u64>(p1, v128.load64_zero(p0, 8), 1, 8)
    e23 = v128.load_lane<u64>(p3, v128.load64_zero(p2, 8), 1, 8)
    f = v128.shuffle<i8>(e01, e23, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
    start = v128.shuffle<i8>(e01, e23, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
    full = i32x4.ge_s(i32x4.shr_u(s2, 21), f)
    mask = i32x4.bitmask(full)
    spill(s2, out, mask)
    out -= popcnt(mask) << 1
    s2 = push(v128.bitselect(i32x4.shr_u(s2, 16), s2, full), f, start, p0, p1, p2, p3, magic)

    a = i32x4.add(i32x4.shl(i32x4.extend_high_i16x8_u(low), 4), entries)
    p0 = i32x4.extract_lane(a, 0), p1 = i32x4.extract_lane(a, 1)
    p2 = i32x4.extract_lane(a, 2), p3 = i32x4.extract_lane(a, 3)
    e01 = v128.load_lane<u64>(p1, v128.load64_zero(p0, 8), 1, 8)
    e23 = v128.load_lane<u64>(p3, v128.load64_zero(p2, 8), 1, 8)
    f = v128.shuffle<i8>(e01, e23, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
    start = v128.shuffle<i8>(e01, e23, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
    full = i32x4.ge_s(i32x4.shr_u(s1, 21), f)
    mask = i32x4.bitmask(full)
    spill(s1, out, mask)
    out -= popcnt(mask) << 1
    s1 = push(v128.bitselect(i32x4.shr_u(s1, 16), s1, full), f, start, p0, p1, p2, p3, magic)

    a = i32x4.add(i32x4.shl(i32x4.extend_low_i16x8_u(low), 4), entries)
    p0 = i32x4.extract_lane(a, 0), p1 = i32x4.extract_lane(a, 1)
    p2 = i32x4.extract_lane(a, 2), p3 = i32x4.extract_lane(a, 3)
    e01 = v128.load_lane<u64>(p1, v128.load64_zero(p0, 8), 1, 8)
    e23 = v128.load_lane<u64>(p3, v128.load64_zero(p2, 8), 1, 8)
    f = v128.shuffle<i8>(e01, e23, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
    start = v128.shuffle<i8>(e01, e23, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
    full = i32x4.ge_s(i32x4.shr_u(s0, 21), f)
    mask = i32x4.bitmask(full)
    spill(s0, out, mask)
    out -= popcnt(mask) << 1
    s0 = push(v128.bitselect(i32x4.shr_u(s0, 16), s0, full), f, start, p0, p1, p2, p3, magic)
  }
  v128.store(STATES, s0)
  v128.store(STATES, s1, 16)
  v128.store(STATES, s2, 32)
  v128.store(STATES, s3, 48)
  return out
}

/** Entries of four lanes: their tables as 32-bit lanes, their states. */
// @ts-ignore: decorator
@inline function entries4(t: v128, s: v128, slots: v128, base: v128): v128 {
  const a = i32x4.add(i32x4.add(i32x4.shl(t, 12), base), i32x4.shl(v128.and(s, slots), 2))
  let e = v128.load32_zero(i32x4.extract_lane(a, 0))
  e = v128.load_lane<u32>(i32x4.extract_lane(a, 1), e, 1)
  e = v128.load_lane<u32>(i32x4.extract_lane(a, 2), e, 2)
  return v128.load_lane<u32>(i32x4.extract_lane(a, 3), e, 3)
}

// @ts-ignore: decorator
@inline function pop(s: v128, e: v128, bias: v128): v128 {
  return i32x4.add(
    i32x4.mul(i32x4.shr_u(e, 21), i32x4.shr_u(s, 10)), v128.and(i32x4.shr_u(e, 8), bias),
  )
}

// @ts-ignore: decorator
@inline function refill(s: v128, words: i32, mask: i32, empty: v128): v128 {
  const next = v128.swizzle(v128.load64_zero(words), v128.load(REFILL + (mask << 4)))
  return v128.bitselect(v128.or(i32x4.shl(s, 16), next), s, empty)
}

/** Decodes `count` symbols to SYMBOLS, with the states at STATES, from `words` on; returns where the next word is. */
function takeWords(x: i32, count: i32, top: i32, shift: i32, words: i32): i32 {
  const magnitude = constant(MAGNITUDE)
  const fifteen = constant(FIFTEEN)
  const slots = constant(SLOT)
  const least = constant(LEAST)
  const bias = constant(BIAS)
  const byte = constant(BYTE32)
  const tables = v128.load(TABLES)
  const tops = i16x8.splat(<i16>top)
  const base = i32x4.splat(DECODING)
  let s0 = v128.load(STATES)
  let s1 = v128.load(STATES, 16)
  let s2 = v128.load(STATES, 32)
  let s3 = v128.load(STATES, 48)
  let to = SYMBOLS
  for (const end = x + count * 2; x < end; x += 32, to += 16) {
    const t = v128.swizzle(tables, contexts(x, shift, tops, magnitude, fifteen))
    const low = i16x8.extend_low_i8x16_u(t)
    const high = i16x8.extend_high_i8x16_u(t)

    const e0 = entries4(i32x4.extend_low_i16x8_u(low), s0, slots, base)
    s0 = pop(s0, e0, bias)
    let empty = i32x4.lt_s(s0, least)
    let mask = i32x4.bitmask(empty)
    s0 = refill(s0, words, mask, empty)
    words += popcnt(mask) << 1

    const e1 = entries4(i32x4.extend_high_i16x8_u(low), s1, slots, base)
    s1 = pop(s1, e1, bias)
    empty = i32x4.lt_s(s1, least)
    mask = i32x4.bitmask(empty)
    s1 = refill(s1, words, mask, empty)
    words += popcnt(mask) << 1

    const e2 = entries4(i32x4.extend_low_i16x8_u(high), s2, slots, base)
    s2 = pop(s2, e2, bias)
    empty = i32x4.lt_s(s2, least)
    mask = i32x4.bitmask(empty)
    s2 = refill(s2, words, mask, empty)
    words += popcnt(mask) << 1

    const e3 = entries4(i32x4.extend_high_i16x8_u(high), s3, slots, base)
    s3 = pop(s3, e3, bias)
    empty = i32x4.lt_s(s3, least)
    mask = i32x4.bitmask(empty)
    s3 = refill(s3, words, mask, empty)
    words += popcnt(mask) << 1

    v128.store(to, i8x16.narrow_i16x8_u(
      i16x8.narrow_i32x4_u(v128.and(e0, byte), v128.and(e1, byte)),
      i16x8.narrow_i32x4_u(v128.and(e2, byte), v128.and(e3, byte)),
    ))
  }
  v128.store(STATES, s0)
  v128.store(STATES, s1, 16)
  v128.store(STATES, s2, 32)
  v128.store(STATES, s3, 48)
  return words
}

/** Magnitudes of 8 lanes of which one has more than 7 raw bits, from bit `at` of RAW on; the bits that they take come back in RESULTS. */
function wideMagnitudes(token: v128, k: v128, at: i32): v128 {
  const begin = at
  v128.store(SCALARS, token)
  v128.store(SCALARS, k, 16)
  for (let lane = SCALARS; lane < SCALARS + 16; lane += 2) {
    const m: i32 = load<u16>(lane)
    const extra: i32 = load<u16>(lane, 16)
    if (m < 4) continue
    const window = <i32>(load<u64>(RAW + (at >> 3)) >> (at & 7))
    store<u16>(lane, ((4 | (m & 3)) << extra) | (window & ((1 << extra) - 1)))
    at += extra
  }
  store<i32>(RESULTS, at - begin)
  return v128.load(SCALARS)
}

/** Lanes at `y` from those at `x`, the symbols at SYMBOLS, and the raw bits from bit `at` on; returns where the next bit is. */
function applySymbols(x: i32, y: i32, count: i32, at: i32): i32 {
  const magnitude = constant(MAGNITUDE)
  const one = constant(ONE)
  const three = constant(THREE)
  const four = constant(FOUR)
  const seven = constant(SEVEN)
  const tokens = constant(TOKEN)
  const pair = constant(PAIR)
  const powerLow = constant(POWER_LOW)
  const reverse = constant(REVERSE)
  const twice = constant(TWICE)
  const seven8 = constant(SEVEN8)
  const zero = i64x2.splat(0)
  let from = SYMBOLS
  for (const end = x + count * 2; x < end; x += 16, y += 16, from += 8) {
    const symbols = i16x8.extend_low_i8x16_u(v128.load64_zero(from))
    const before = v128.load(x)
    const token = v128.and(i16x8.shr_u(symbols, 1), tokens)
    const k = i16x8.sub_sat_u(i16x8.shr_u(token, 2), one)
    let m: v128
    if (v128.any_true(i16x8.gt_s(k, seven))) {
      m = wideMagnitudes(token, k, at)
      at += load<i32>(RESULTS)
    } else {
      const kBytes = i8x16.narrow_i16x8_u(k, k)
      // Byte i of the product: the sum of the first i + 1 bytes of k.
      const sums = i64x2.extract_lane(kBytes, 0) * 0x0101010101010101
      const places = i64x2.splat((sums << 8) + <i64>(at & 7) * 0x0101010101010101)
      const around = v128.swizzle(
        v128.load(RAW + (at >> 3)),
        i8x16.add(v128.swizzle(i8x16.shr_u(places, 3), twice), pair),
      )
      // Shifted left to a fixed place and back: lanes have no shift of their own.
      const left = i16x8.extend_low_i8x16_u(v128.swizzle(reverse, v128.and(places, seven8)))
      const power = i16x8.extend_low_i8x16_u(v128.swizzle(powerLow, kBytes))
      const low = v128.and(i16x8.shr_u(i16x8.mul(around, left), 7), i16x8.sub(power, one))
      const long = i16x8.add(i16x8.mul(v128.or(v128.and(token, three), four), power), low)
      m = v128.bitselect(token, long, i16x8.lt_s(token, four))
      at += <i32>(<u64>sums >> 56)
    }
    const neg = i16x8.sub(zero, v128.and(symbols, one))
    const moved = i16x8.add(v128.and(before, magnitude), v128.xor(m, neg))
    const flip = i16x8.shl(i16x8.shr_u(symbols, 7), 15)
    v128.store(y, v128.xor(v128.xor(moved, v128.andnot(before, magnitude)), flip))
  }
  return at
}

/** Lanes taken through both loops at a time: their symbols stay in the L1 cache. */
const CHUNK: i32 = 8192

/**
 * Decodes `count` lanes from the words at WORDS, the raw bits at RAW and the states at STATES, over the prediction at `x`, to `y`,
 * which may be the same. Returns how many words were taken; how many raw bits is left in RESULTS.
 */
export function decodeLanes(x: i32, y: i32, count: i32, top: i32, shift: i32): i32 {
  let words = WORDS
  let at = 0
  for (let first = 0; first < count; first += CHUNK) {
    const lanes = min(CHUNK, count - first)
    words = takeWords(x + first * 2, lanes, top, shift, words)
    at = applySymbols(x + first * 2, y + first * 2, lanes, at)
  }
  store<i32>(RESULTS, at)
  return (words - WORDS) >> 1
}
