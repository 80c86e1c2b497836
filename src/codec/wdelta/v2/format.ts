import { elementCount } from '../../base/dtypes.ts'
import { DIGEST_BYTES } from '../../base/hasher.ts'
import { FRAME_BYTES } from '../../base/limits.ts'
import { utf8 } from '../../base/utf8.ts'
import type { LayoutTensor } from '../../safetensors/layout.ts'
import { refuse } from '../refuse.ts'

/** Bytes before the first record: see `FORMAT.md`, as for all of this file. */
export const PREFIX_BYTES_V2 = 16
/** Bytes after the index, the SHA-256 included. */
export const TAIL_BYTES = 64
/** The number that stands for the record of a frame that has none. */
export const NO_RECORD = 0xffffffff
/** Most bytes of an inflated index … */
const INDEX_BYTES = 128 * 1024 * 1024
/** … which are also bounded by its stored bytes: INDEX_FLOOR, and INDEX_RATIO for each of them. */
const INDEX_RATIO = 256
const INDEX_FLOOR = 65_536

/** The bytes before the first record. */
export function prefixV2(): Uint8Array {
  const prefix = new Uint8Array(PREFIX_BYTES_V2)
  prefix.set(utf8('wdelta\0'))
  prefix[7] = 2
  return prefix
}

/** Refuses bytes that do not begin a `.wdelta` of version 2. @throws CodecError `magic`, `version` or `prefix` */
export function checkPrefixV2(bytes: Uint8Array): void {
  const expected = prefixV2()
  for (let i = 0; i < PREFIX_BYTES_V2; i++) {
    if (bytes[i] === expected[i]) continue
    const rule = i < 7 ? 'magic' : i < 11 ? 'version' : 'prefix'
    refuse(rule, `expected byte ${expected[i]}, got ${bytes[i]}`, i)
  }
}

/** Where the index is, and what its bytes are checked against. */
export interface Tail {
  /** Where the stored index begins in the file. */
  readonly offset: number
  /** Bytes of the index as it is stored, and inflated. */
  readonly stored: number
  readonly inflated: number
  /** xxh64 of its stored bytes. */
  readonly checksum: bigint
}

/** The last bytes of a file, without its SHA-256. */
export function tailBytes({ offset, stored, inflated, checksum }: Tail): Uint8Array {
  const tail = new Uint8Array(TAIL_BYTES - DIGEST_BYTES)
  const view = new DataView(tail.buffer)
  view.setUint32(0, offset % 2 ** 32, true)
  view.setUint32(4, Math.floor(offset / 2 ** 32), true)
  view.setUint32(8, stored, true)
  view.setUint32(12, inflated, true)
  view.setBigUint64(16, checksum, true)
  return tail
}

/**
 * Reads the last TAIL_BYTES of a file of `size` bytes.
 * @throws CodecError `tail` if they do not fit the file, `index-size` for an index that is too large
 */
export function parseTail(tail: Uint8Array, size: number): Tail {
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength)
  const offset = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32
  const stored = view.getUint32(8, true)
  const inflated = view.getUint32(12, true)
  const at = size - TAIL_BYTES
  if (offset < PREFIX_BYTES_V2 + 8 || offset + stored !== at) {
    refuse('tail', `an index of ${stored} bytes at ${offset} in a file of ${size}`, at)
  }
  if (tail.subarray(24, 32).some(byte => byte !== 0)) refuse('tail', 'expected zeros', at + 24)
  checkIndexSize(inflated, stored, at + 12)
  return { offset, stored, inflated, checksum: view.getBigUint64(16, true) }
}

/** Refuses an index that inflates to more than an honest one would. */
function checkIndexSize(inflated: number, stored: number, at: number): void {
  const most = Math.min(INDEX_BYTES, INDEX_FLOOR + stored * INDEX_RATIO)
  if (inflated <= most) return
  refuse('index-size', `an index of ${stored} bytes: expected at most ${most}, got ${inflated}`, at)
}

/** Frames of a tensor of `bytes` bytes. */
export function frameCount(bytes: number): number {
  return Math.ceil(bytes / FRAME_BYTES)
}

/** A tensor of a shard's layout, with its elements and bytes counted. */
export function sized({ name, dtype, shape, begin, end }: LayoutTensor) {
  return { name, dtype, shape, count: elementCount(shape), bytes: end - begin }
}
