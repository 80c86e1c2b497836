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
  0x0200, 0x0200, 0x0200, 0x0200, 0x0200, 0x0200, 0x0200, 0x0200, // EXPONENT: 512
  0xffff, 0x0000, 0xffff, 0x0000, 0xffff, 0x0000, 0xffff, 0x0000, // LOW_HALF
  0x0001, 0x0000, 0x0001, 0x0000, 0x0001, 0x0000, 0x0001, 0x0000, // ONE32
  0x03ff, 0x0000, 0x03ff, 0x0000, 0x03ff, 0x0000, 0x03ff, 0x0000, // SLOT: 1023
  0x8000, 0x0000, 0x8000, 0x0000, 0x8000, 0x0000, 0x8000, 0x0000, // LEAST: the lower end of a state's interval
  0x1fff, 0x0000, 0x1fff, 0x0000, 0x1fff, 0x0000, 0x1fff, 0x0000, // BIAS: bits 8..20 of a decoding entry
  0x00ff, 0x0000, 0x00ff, 0x0000, 0x00ff, 0x0000, 0x00ff, 0x0000, // BYTE32
  0x0000, 0x0000, 0x0000, 0x4290, 0x0000, 0x0000, 0x0000, 0x4290, // MAGIC: 2^42 as float64
  0x0201, 0x0804, 0x2010, 0x8040, 0x0000, 0x0000, 0x0000, 0x0000, // POWER_LOW: low byte of 2^k, k = 0..15
  0x0000, 0x0000, 0x0000, 0x0000, 0x0201, 0x0804, 0x2010, 0x8040, // POWER_HIGH
  0x4080, 0x1020, 0x0408, 0x0102, 0x0000, 0x0000, 0x0000, 0x0000, // REVERSE: 2^(7 - k)
  0x0000, 0x0101, 0x0202, 0x0303, 0x0404, 0x0505, 0x0606, 0x0707, // TWICE: each byte's place twice
  0x0707, 0x0707, 0x0707, 0x0707, 0x0707, 0x0707, 0x0707, 0x0707, // SEVEN8
  0x8080, 0x8080, 0x8080, 0x8080, 0x8080, 0x8080, 0x8080, 0x8080, // FLIP
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
const FLIP: i32 = 21

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

/** Tokens of 8 lanes from the magnitudes of their changes. */
// @ts-ignore: decorator
@inline function tokensOf(m: v128, four: v128, exponent: v128): v128 {
  // Exponent and upper two bits of the mantissa of a float, from where 4 is 4.
  const low = i32x4.shr_u(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_u(m)), 21)
  const high = i32x4.shr_u(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_u(m)), 21)
  return i16x8.max_s(i16x8.min_s(m, four), i16x8.sub(i16x8.narrow_i32x4_s(low, high), exponent))
}

/** Raw bits of pairs of neighbours as one number each: the first's bits, and above them the second's. */
// @ts-ignore: decorator
@inline function pairsOf(m: v128, power: v128, one: v128, lowHalf: v128, one32: v128): v128 {
  return i32x4.dot_i16x8_s(
    v128.and(m, i16x8.sub(power, one)), v128.or(i32x4.shl(v128.and(power, lowHalf), 16), one32),
  )
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
  const flip = constant(FLIP)
  const powerLow = constant(POWER_LOW)
  const powerHigh = constant(POWER_HIGH)
  let acc: u64 = 0
  let bits = 0
  let out = RAW
  let to = SYMBOLS
  for (const end = x + count * 2; x < end; x += 32, y += 32, to += 16) {
    let before = v128.load(x)
    const za = v128.xor(v128.load(y), v128.andnot(before, magnitude))
    let d = i16x8.sub(v128.and(za, magnitude), v128.and(before, magnitude))
    const negA = i16x8.shr_s(d, 15)
    const ma = v128.xor(d, negA)
    const tokenA = tokensOf(ma, four, exponent)
    before = v128.load(x, 16)
    const zb = v128.xor(v128.load(y, 16), v128.andnot(before, magnitude))
    d = i16x8.sub(v128.and(zb, magnitude), v128.and(before, magnitude))
    const negB = i16x8.shr_s(d, 15)
    const mb = v128.xor(d, negB)
    const tokenB = tokensOf(mb, four, exponent)

    const tokens = i8x16.narrow_i16x8_u(tokenA, tokenB)
    // What moved twice, one more if it went down, and the flip on top.
    const moved = i8x16.sub(i8x16.add(tokens, tokens), i8x16.narrow_i16x8_s(negA, negB))
    const flips = i8x16.narrow_i16x8_u(i16x8.shr_u(za, 8), i16x8.shr_u(zb, 8))
    v128.store(to, v128.or(moved, v128.and(flips, flip)))

    const ka = i16x8.sub_sat_u(i16x8.shr_u(tokenA, 2), one)
    const kb = i16x8.sub_sat_u(i16x8.shr_u(tokenB, 2), one)
    let power = v128.swizzle(powerLow, i8x16.narrow_i16x8_u(ka, kb))
    const pairsA = pairsOf(ma, i16x8.extend_low_i8x16_u(power), one, lowHalf, one32)
    const pairsB = pairsOf(mb, i16x8.extend_high_i8x16_u(power), one, lowHalf, one32)
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

/** Adds one to four counters, each in a copy of its own, at the four offsets of 16 bits in `at`. */
// @ts-ignore: decorator
@inline function countFour(at: i64): void {
  const a = <i32>at & 0xffff
  store<u32>(a, load<u32>(a, COUNTS) + 1, COUNTS)
  const b = <i32>(at >>> 16) & 0xffff
  store<u32>(b, load<u32>(b, COUNTS + (1 << 14)) + 1, COUNTS + (1 << 14))
  const c = <i32>(at >>> 32) & 0xffff
  store<u32>(c, load<u32>(c, COUNTS + (2 << 14)) + 1, COUNTS + (2 << 14))
  const d = <i32>(at >>> 48)
  store<u32>(d, load<u32>(d, COUNTS + (3 << 14)) + 1, COUNTS + (3 << 14))
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
    // Symbol below, context above, times the 4 bytes of a counter.
    const low = i16x8.shl(v128.shuffle<i8>(symbols, c, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), 2)
    const high = i16x8.shl(v128.shuffle<i8>(symbols, c, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 2)
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

/** The states before the symbols of four lanes: `rest` is 1024 minus their frequencies, `i01` and `i23` are the inverses of those. */
// @ts-ignore: decorator
@inline function push(s: v128, rest: v128, start: v128, i01: v128, i23: v128, magic: v128): v128 {
  // The quotient, exact: the inverse is a little too large, and 2^42 leaves the fraction's upper bits in the low word.
  const q01 = f64x2.add(f64x2.mul(f64x2.convert_low_i32x4_s(s), i01), magic)
  const upper = v128.shuffle<i64>(s, s, 1, 0)
  const q23 = f64x2.add(f64x2.mul(f64x2.convert_low_i32x4_s(upper), i23), magic)
  const q = i32x4.shr_u(v128.shuffle<i32>(q01, q23, 0, 2, 4, 6), 10)
  return i32x4.add(i32x4.add(s, start), i32x4.mul(q, rest))
}

// @ts-ignore: decorator
@inline function spill(s: v128, out: i32, mask: i32): void {
  v128.store64_lane(out - 8, v128.swizzle(s, v128.load(SPILL + (mask << 4))), 0)
}

/** Where the words of {@link codeFour} begin so far. */
let wordsBegin: i32 = 0

/** Codes four symbols, whose entries are at the four offsets of 16 bits in `at`, and spills what is too much for their states. */
// @ts-ignore: decorator
@inline function codeFour(s: v128, at: i64, magic: v128, most: v128): v128 {
  const a = v128.load(<i32>at & 0xffff, ENCODING)
  const b = v128.load(<i32>(at >>> 16) & 0xffff, ENCODING)
  const c = v128.load(<i32>(at >>> 32) & 0xffff, ENCODING)
  const d = v128.load(<i32>(at >>> 48), ENCODING)
  const ab = v128.shuffle<i64>(a, b, 1, 3)
  const cd = v128.shuffle<i64>(c, d, 1, 3)
  const rest = v128.shuffle<i32>(ab, cd, 0, 2, 4, 6)
  const start = v128.shuffle<i32>(ab, cd, 1, 3, 5, 7)
  const full = i32x4.gt_s(i32x4.add(i32x4.shr_u(s, 21), rest), most)
  const mask = i32x4.bitmask(full)
  spill(s, wordsBegin, mask)
  wordsBegin -= popcnt(mask) << 1
  return push(
    v128.bitselect(i32x4.shr_u(s, 16), s, full), rest, start,
    v128.shuffle<i64>(a, b, 0, 2), v128.shuffle<i64>(c, d, 0, 2), magic,
  )
}

/** Codes the symbols of `count` lanes, last to first, into words that end at WORDS_END; returns where they begin. */
export function encodeLanes(x: i32, count: i32, top: i32, shift: i32): i32 {
  const magnitude = constant(MAGNITUDE)
  const fifteen = constant(FIFTEEN)
  const magic = constant(MAGIC)
  const most = constant(SLOT)
  const tables = v128.load(TABLES)
  const tops = i16x8.splat(<i16>top)
  let s0 = constant(LEAST), s1 = s0, s2 = s0, s3 = s0
  wordsBegin = WORDS_END
  let from = SYMBOLS + count
  for (let at = x + count * 2; at > x;) {
    at -= 32
    from -= 16
    const t = v128.swizzle(tables, contexts(at, shift, tops, magnitude, fifteen))
    const symbols = v128.load(from)
    // Symbol below, table above, times the 16 bytes of an entry.
    const low = i16x8.shl(v128.shuffle<i8>(symbols, t, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), 4)
    const high = i16x8.shl(v128.shuffle<i8>(symbols, t, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 4)
    s3 = codeFour(s3, i64x2.extract_lane(high, 1), magic, most)
    s2 = codeFour(s2, i64x2.extract_lane(high, 0), magic, most)
    s1 = codeFour(s1, i64x2.extract_lane(low, 1), magic, most)
    s0 = codeFour(s0, i64x2.extract_lane(low, 0), magic, most)
  }
  v128.store(STATES, s0)
  v128.store(STATES, s1, 16)
  v128.store(STATES, s2, 32)
  v128.store(STATES, s3, 48)
  return wordsBegin
}

/** Entries of four lanes: their tables as 32-bit lanes, their states. */
// @ts-ignore: decorator
@inline function entries4(t: v128, s: v128, slots: v128): v128 {
  const at = i32x4.add(i32x4.shl(t, 12), i32x4.shl(v128.and(s, slots), 2))
  const low = i64x2.extract_lane(at, 0)
  const high = i64x2.extract_lane(at, 1)
  let e = v128.load32_zero(<i32>low, DECODING)
  e = v128.load_lane<u32>(<i32>(low >>> 32), e, 1, DECODING)
  e = v128.load_lane<u32>(<i32>high, e, 2, DECODING)
  return v128.load_lane<u32>(<i32>(high >>> 32), e, 3, DECODING)
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
  let s0 = v128.load(STATES)
  let s1 = v128.load(STATES, 16)
  let s2 = v128.load(STATES, 32)
  let s3 = v128.load(STATES, 48)
  let to = SYMBOLS
  for (const end = x + count * 2; x < end; x += 32, to += 16) {
    const t = v128.swizzle(tables, contexts(x, shift, tops, magnitude, fifteen))
    const low = i16x8.extend_low_i8x16_u(t)
    const high = i16x8.extend_high_i8x16_u(t)

    const e0 = entries4(i32x4.extend_low_i16x8_u(low), s0, slots)
    s0 = pop(s0, e0, bias)
    let empty = i32x4.lt_s(s0, least)
    let mask = i32x4.bitmask(empty)
    s0 = refill(s0, words, mask, empty)
    words += popcnt(mask) << 1

    const e1 = entries4(i32x4.extend_high_i16x8_u(low), s1, slots)
    s1 = pop(s1, e1, bias)
    empty = i32x4.lt_s(s1, least)
    mask = i32x4.bitmask(empty)
    s1 = refill(s1, words, mask, empty)
    words += popcnt(mask) << 1

    const e2 = entries4(i32x4.extend_low_i16x8_u(high), s2, slots)
    s2 = pop(s2, e2, bias)
    empty = i32x4.lt_s(s2, least)
    mask = i32x4.bitmask(empty)
    s2 = refill(s2, words, mask, empty)
    words += popcnt(mask) << 1

    const e3 = entries4(i32x4.extend_high_i16x8_u(high), s3, slots)
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
