import { createHash } from 'node:crypto'
import { NO_RECORD, prefixV2, type Tail, tailBytes } from '../../../src/codec/wdelta/v2/format.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'
import { u32, u64 } from './wdelta-files.ts'

/** A `.wdelta` of version 2 as loosely as a forger would write it: nothing in it has to fit. */
export interface RawDelta {
  readonly parentIdentity: Uint8Array
  readonly parentHash: Uint8Array
  readonly shards: readonly { path: string; header: Uint8Array; sha256: Uint8Array }[]
  readonly records: readonly Uint8Array[]
  readonly sources: readonly (RawSource | null)[]
  readonly frames: readonly { encoding: number; record: number; checksum: bigint }[]
}

export interface RawSource {
  /** The name of another tensor; null for that of the tensor itself. */
  readonly name: string | null
  readonly dtype: string
  readonly shape: readonly (number | bigint)[]
}

/** Bytes of an index, and where the numbers stand in it. */
export interface RawIndex {
  readonly bytes: Uint8Array
  readonly numbers: readonly { readonly at: number; readonly width: 1 | 2 | 4 | 8 }[]
}

export const COPY = { encoding: 0, record: NO_RECORD }

export function xxh64(bytes: Uint8Array): bigint {
  return threadKernels().machine.checksum(bytes)
}

export function zstd(bytes: Uint8Array, level = 3): Uint8Array {
  return Uint8Array.from(threadKernels().compression.compress(bytes, level))
}

/** The index of a delta, not yet compressed. Source: `FORMAT.md`, "Index". */
export function rawIndex(delta: RawDelta): RawIndex {
  const parts: Uint8Array[] = []
  const numbers: { at: number; width: 1 | 2 | 4 | 8 }[] = []
  let at = 0
  const put = (bytes: Uint8Array) => {
    parts.push(bytes)
    at += bytes.length
  }
  const number = (width: 1 | 2 | 4 | 8, value: number | bigint) => {
    numbers.push({ at, width })
    put(u64(value).subarray(0, width))
  }
  const text = (width: 1 | 2, value: string) => {
    const bytes = Buffer.from(value)
    number(width, bytes.length)
    put(bytes)
  }
  put(delta.parentIdentity)
  put(delta.parentHash)
  number(4, delta.shards.length)
  for (const { path, header, sha256 } of delta.shards) {
    text(2, path)
    number(4, header.length)
    put(header)
    put(sha256)
  }
  number(4, delta.records.length)
  for (const record of delta.records) number(4, record.length)
  for (const record of delta.records) number(8, xxh64(record))
  number(4, delta.sources.length)
  for (const source of delta.sources) {
    number(1, source === null ? 0 : source.name === null ? 1 : 2)
    if (!source) continue
    text(1, source.dtype)
    number(1, source.shape.length)
    for (const dimension of source.shape) number(8, dimension)
    if (source.name !== null) text(2, source.name)
  }
  const { frames } = delta
  number(4, frames.length)
  put(Uint8Array.from(frames, ({ encoding }) => encoding))
  put(new Uint8Array(Uint32Array.from(frames, ({ record }) => record).buffer))
  put(new Uint8Array(BigUint64Array.from(frames, ({ checksum }) => checksum).buffer))
  return { bytes: Buffer.concat(parts), numbers }
}

/** A file around any index, with sound checksums; `change` is what its tail says otherwise. */
export function sealedV2(
  records: readonly Uint8Array[],
  index: Uint8Array,
  { stored = zstd(index), ...change }: Partial<Omit<Tail, 'stored'>> & { stored?: Uint8Array } = {},
): Uint8Array {
  const body = records.flatMap(record => [u32(record.length), record])
  const head = Buffer.concat([prefixV2(), ...body, u32(0), u32(stored.length)])
  const tail = tailBytes({
    offset: head.length,
    inflated: index.length,
    checksum: xxh64(stored),
    ...change,
    stored: stored.length,
  })
  return resealed(Buffer.concat([head, stored, tail, Buffer.alloc(32)]))
}

/** A file with the SHA-256 at its end made right. */
export function resealed(file: Uint8Array): Uint8Array {
  const payload = file.subarray(0, Math.max(0, file.length - 32))
  return Buffer.concat([payload, createHash('sha256').update(payload).digest()])
}
