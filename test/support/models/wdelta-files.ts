import { createHash } from 'node:crypto'
import { globSync, readFileSync } from 'node:fs'
import type { Hasher } from '../../../src/codec/base/hasher.ts'
import type { RecordDelta } from '../../../src/codec/wdelta/delta-index.ts'
import {
  RecordDeltaReader,
  type RecordDeltaReaderOptions,
} from '../../../src/codec/wdelta/v1/reader.ts'
import {
  type RecordDeltaPlan,
  recordDeltaPrefix,
  recordHeader,
} from '../../../src/codec/wdelta/v1/writer.ts'

/** The index of a `.wdelta` of version 1 that is in memory as a whole. @throws CodecError as its reader does */
export function indexDelta(bytes: Uint8Array, hasher: Hasher): RecordDelta {
  const reader = new RecordDeltaReader(hasher, { fileSize: bytes.length })
  reader.push(bytes)
  return reader.end()
}

/** One array record, as loosely as a forger would write it. */
export interface Record {
  name: string | Uint8Array
  field: string
  dtype: string
  dims: readonly (number | bigint)[]
  length?: number | bigint
  data: Uint8Array
}

export const PARENT = '5f'.repeat(32)

export function sha256(bytes: Uint8Array): Uint8Array {
  return createHash('sha256').update(bytes).digest()
}

export function u32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer)
}

export function u64(value: number | bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt.asUintN(64, BigInt(value))).buffer)
}

export function i64s(...values: (number | bigint)[]): Uint8Array {
  return new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer)
}

export function f32s(...values: number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer)
}

export function f16s(...values: number[]): Uint8Array {
  return new Uint8Array(Float16Array.from(values).buffer)
}

export function join(...parts: (Uint8Array | string)[]): Uint8Array {
  return new Uint8Array(
    Buffer.concat(parts.map(part => (typeof part === 'string' ? Buffer.from(part) : part))),
  )
}

/** A file with a right checksum around any payload. */
export function sealed(...parts: (Uint8Array | string)[]): Uint8Array {
  const payload = join(...parts)
  return join(payload, sha256(payload))
}

export function recordBytes({ name, field, dtype, dims, length, data }: Record): Uint8Array {
  const text = (value: string | Uint8Array): Uint8Array => {
    const bytes = join(value)
    return join(u32(bytes.length), bytes)
  }
  const lengths = [...dims.map(u64), u64(length ?? data.length)]
  return join(text(name), text(field), text(dtype), u32(dims.length), ...lengths, data)
}

/** A sealed file of a header (JSON text or value) and records. */
export function deltaFile(header: unknown, records: readonly (Record | Uint8Array)[]): Uint8Array {
  const json = join(typeof header === 'string' ? header : JSON.stringify(header))
  const parts = records.map(record => (record instanceof Uint8Array ? record : recordBytes(record)))
  return sealed('wdelta\0', u32(1), u32(json.length), json, ...parts)
}

export function record(
  name: string,
  field: string,
  dtype: string,
  itemBytes: number,
  data: Uint8Array,
): Record {
  return { name, field, dtype, dims: [data.length / itemBytes], data }
}

/** Reads a file in pieces of `step` bytes. */
export function readDelta(
  bytes: Uint8Array,
  step = bytes.length,
  options: RecordDeltaReaderOptions = {},
): RecordDelta {
  const reader = new RecordDeltaReader(createHash('sha256'), options)
  for (let at = 0; at < bytes.length; at += step) reader.push(bytes.subarray(at, at + step))
  return reader.end()
}

/** The `.wdelta` files of the golden cases, by path. */
export function goldenDeltas(): Map<string, Uint8Array> {
  const root = new URL('../../fixtures/v1/', import.meta.url).pathname
  const paths = globSync('**/*.wdelta', { cwd: root }).sort()
  if (paths.length === 0) throw new Error(`no golden .wdelta below ${root}`)
  return new Map(paths.map(path => [path, new Uint8Array(readFileSync(root + path))]))
}

/** The file of a plan whose arrays are given by name and field. */
export function writeDelta(
  plan: RecordDeltaPlan,
  data: (name: string, field: string) => Uint8Array,
): Uint8Array {
  const parts = plan.tensors.flatMap(({ entry, arrays }) =>
    arrays.flatMap(({ field, length }) => [
      recordHeader(entry.name, field, length),
      data(entry.name, field.name),
    ]),
  )
  return sealed(recordDeltaPrefix(plan), ...parts)
}

/** A plan's file in which nothing changes: all values 0, the first elements kept. */
export function zeroDelta(plan: RecordDeltaPlan): Uint8Array {
  const sizes = new Map(
    plan.tensors.flatMap(({ entry, arrays }) =>
      arrays.map(({ field, bytes }) => [`${entry.name}/${field.name}`, bytes] as const),
    ),
  )
  return writeDelta(plan, (name, field) => {
    const bytes = new Uint8Array(sizes.get(`${name}/${field}`)!)
    if (field !== 'indices' && field !== 'outlier_idx') return bytes
    new BigInt64Array(bytes.buffer).forEach((_, i, all) => {
      all[i] = BigInt(i)
    })
    return bytes
  })
}
