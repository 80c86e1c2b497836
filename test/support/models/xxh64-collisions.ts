const MASK = 2n ** 64n - 1n
const PRIME_1 = 11400714785074694791n
const PRIME_2 = 14029467366897019727n
/** Bytes that the four accumulators take in a row, 8 each. */
const STRIPE_BYTES = 32

const rotated = (x: bigint, by: bigint) => ((x << by) | (x >> (64n - by))) & MASK
const round = (sum: bigint, lane: bigint) =>
  (rotated((sum + lane * PRIME_2) & MASK, 31n) * PRIME_1) & MASK

/** What PRIME_2 must be multiplied with to give 1. */
const INVERSE = (() => {
  let inverse = 1n
  for (let i = 0; i < 7; i++) inverse = (inverse * (2n - PRIME_2 * inverse)) & MASK
  return inverse
})()

/**
 * Other bytes with the XXH64 (seed 0) of `bytes`, which has at least 64 from `at` on, a multiple of 32: the first 8 from there are others, and so
 * are the 8 that the same accumulator takes next, which make up for them. Source: xxHash `doc/xxhash_spec.md`.
 */
export function collision(bytes: Uint8Array, at = 0): Buffer {
  const other = Buffer.from(bytes)
  let sum = (PRIME_1 + PRIME_2) & MASK
  for (let stripe = 0; stripe < at; stripe += STRIPE_BYTES) {
    sum = round(sum, other.readBigUInt64LE(stripe))
  }
  const lane = other.readBigUInt64LE(at)
  const next = other.readBigUInt64LE(at + STRIPE_BYTES)
  const changed = lane ^ 0xdeadbeefn
  other.writeBigUInt64LE(changed, at)
  const made = (round(sum, lane) - round(sum, changed)) & MASK
  other.writeBigUInt64LE((next + made * INVERSE) & MASK, at + STRIPE_BYTES)
  return other
}
