import { LANES } from './memory'

/** XXH64 with seed 0, in three steps, for bytes that do not fit into this memory at once. Source: xxHash `doc/xxhash_spec.md`. */
const P1: u64 = 0x9e3779b185ebca87
const P2: u64 = 0xc2b2ae3d27d4eb4f
const P3: u64 = 0x165667b19e3779f9
const P4: u64 = 0x85ebca77c2b2ae63
const P5: u64 = 0x27d4eb2f165667c5

// @ts-ignore: decorator
@inline function round(lane: u64, input: u64): u64 {
  return rotl<u64>(lane + input * P2, 31) * P1
}

// @ts-ignore: decorator
@inline function merge(hash: u64, lane: u64): u64 {
  return (hash ^ round(0, lane)) * P1 + P4
}

export function beginChecksum(): void {
  store<u64>(LANES, P1 + P2)
  store<u64>(LANES, P2, 8)
  store<u64>(LANES, 0, 16)
  store<u64>(LANES, 0 - P1, 24)
}

/** Takes `bytes` bytes at `at`, a multiple of 32. */
export function addStripes(at: i32, bytes: i32): void {
  let a = load<u64>(LANES)
  let b = load<u64>(LANES, 8)
  let c = load<u64>(LANES, 16)
  let d = load<u64>(LANES, 24)
  for (const end = at + bytes; at < end; at += 32) {
    a = round(a, load<u64>(at))
    b = round(b, load<u64>(at, 8))
    c = round(c, load<u64>(at, 16))
    d = round(d, load<u64>(at, 24))
  }
  store<u64>(LANES, a)
  store<u64>(LANES, b, 8)
  store<u64>(LANES, c, 16)
  store<u64>(LANES, d, 24)
}

/** Takes the last `bytes` bytes at `at`, fewer than 32, and gives the checksum of all `total`. */
export function endChecksum(at: i32, bytes: i32, total: f64): u64 {
  let hash = P5
  if (total >= 32) {
    const a = load<u64>(LANES)
    const b = load<u64>(LANES, 8)
    const c = load<u64>(LANES, 16)
    const d = load<u64>(LANES, 24)
    hash = rotl<u64>(a, 1) + rotl<u64>(b, 7) + rotl<u64>(c, 12) + rotl<u64>(d, 18)
    hash = merge(merge(merge(merge(hash, a), b), c), d)
  }
  hash += <u64>total
  const end = at + bytes
  for (; at + 8 <= end; at += 8) hash = rotl<u64>(hash ^ round(0, load<u64>(at)), 27) * P1 + P4
  if (at + 4 <= end) {
    hash = rotl<u64>(hash ^ (<u64>load<u32>(at) * P1), 23) * P2 + P3
    at += 4
  }
  for (; at < end; at++) hash = rotl<u64>(hash ^ (<u64>load<u8>(at) * P5), 11) * P1
  hash = (hash ^ (hash >> 33)) * P2
  hash = (hash ^ (hash >> 29)) * P3
  return hash ^ (hash >> 32)
}
