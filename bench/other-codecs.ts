/**
 * Published codecs for pairs of bf16 tensors, for comparison only: sizes of what they would store.
 * Sources: ds2-lab/ZipLLM `src/bitx` (BitX), tddg/TensorDex (TensorX), "FM-Delta" (NeurIPS 2024).
 */
import { constants, zstdCompressSync } from 'node:zlib'
import { FRAME_BYTES } from '../src/codec/base/limits.ts'
import { splitPlanes } from '../src/codec/frames/byte-planes.ts'

/** One zstd frame. */
export function zstd(bytes: Uint8Array, level: number): Uint8Array {
  return zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: level } })
}

function words(bytes: Uint8Array): Uint16Array {
  return new Uint16Array(new Uint8Array(bytes).buffer)
}

/** BitX: of base XOR tuned, the exponent and its lower neighbour bit as one stream, sign and mantissa as another, zstd 3 over each. */
export function bitxBytes(before: Uint8Array, after: Uint8Array): number {
  const [x, y] = [words(before), words(after)]
  const exponents = new Uint8Array(x.length)
  const rest = new Uint8Array(x.length)
  for (let i = 0; i < x.length; i++) {
    const bits = x[i]! ^ y[i]!
    exponents[i] = (bits >> 7) & 0xff
    rest[i] = ((bits >> 8) & 0x80) | (bits & 0x7f)
  }
  return 8 + zstd(exponents, 3).length + zstd(rest, 3).length
}

/** TensorX: byte planes of base XOR tuned, one zstd 1 frame for every 2 MiB, with a table of sizes where there are several. */
export function tensorxBytes(before: Uint8Array, after: Uint8Array): number {
  const frames = Math.ceil(after.length / FRAME_BYTES)
  let size = frames > 1 ? 16 + 4 * frames : 0
  for (let at = 0; at < after.length; at += FRAME_BYTES) {
    const [x, y] = [before, after].map(part => part.subarray(at, at + FRAME_BYTES))
    size += zstd(splitPlanes(y!, 2, x), 1).length
  }
  return size
}

/**
 * FM-Delta with an ideal coder: bits of sign and bit length of the difference of order-preserving integers by their own frequencies
 * in each 2 MiB of a tensor, the bits below the leading one as they are. No tables, no coder's loss.
 */
export function fmDeltaBytes(before: Uint8Array, after: Uint8Array): number {
  const [x, y] = [words(before), words(after)]
  let bits = 0
  const run = FRAME_BYTES / 2
  for (let first = 0; first < x.length; first += run) {
    const end = Math.min(first + run, x.length)
    const counts = new Map<number, number>()
    for (let i = first; i < end; i++) {
      const d = ordered(y[i]!) - ordered(x[i]!)
      const length = 32 - Math.clz32(Math.abs(d))
      bits += Math.max(0, length - 1)
      const symbol = d < 0 ? -length : length
      counts.set(symbol, (counts.get(symbol) ?? 0) + 1)
    }
    for (const count of counts.values()) bits -= count * Math.log2(count / (end - first))
  }
  return bits / 8
}

/** A bijection of bit patterns to integers in the order of the numbers. */
function ordered(half: number): number {
  return half < 0x8000 ? half + 0x8000 : 0xffff - half
}

/** A tensor by itself: zstd 3 over bytes or byte planes of every 2 MiB, or the bytes as they are. */
export function wholeBytes(bytes: Uint8Array): number {
  let size = 0
  for (let at = 0; at < bytes.length; at += FRAME_BYTES) {
    const frame = bytes.subarray(at, at + FRAME_BYTES)
    const planes = zstd(splitPlanes(frame, 2), 3).length
    size += Math.min(frame.length, zstd(frame, 3).length, planes)
  }
  return size
}
