import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Dtype, elementCount, type FloatDtype } from '../../src/codec/base/dtypes.ts'
import { narrow } from '../../src/codec/base/widen.ts'
import { buildLayout } from '../../src/codec/safetensors/write-header.ts'
import { splitMix } from '../support/random.ts'

/** One tensor as float32 values (or, for I64, as they are): what a test thinks in. */
export interface Sample {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

/** Shapes with nothing round about them; the first three are those that int4 cannot hold. */
const SHAPES: readonly (readonly [string, readonly number[]])[] = [
  ['a.scalar', []],
  ['b.one', [1]],
  ['c.empty', [0, 5]],
  ['d.two', [2]],
  ['e.odd', [37, 53]],
  ['f.deep', [3, 5, 7, 2]],
  ['g.row', [4099]],
  ['h.tall', [1031, 3]],
  ['i.wide', [2, 2053]],
  ['\u{ff5e}.name', [17, 19]],
  ['\u{1f600}.name', [19, 17]],
]

/** Normal numbers from a seed. */
export function normals(seed: number): () => number {
  const uniform = splitMix(seed)
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
}

/** A base of `dtype`, with zeros of both signs in it and one integer tensor. */
export function sampleBase(dtype: FloatDtype): Sample[] {
  const normal = normals(1)
  const samples = SHAPES.map(([name, shape]) => {
    const values = Float32Array.from({ length: elementCount(shape) }, (_, i) =>
      i % 11 === 3 ? -0 : 0.05 * normal(),
    )
    return sample(name, dtype, shape, values)
  })
  const ids = BigInt64Array.of(-1n, 2n ** 40n, 7n)
  samples.push({ name: 'z.ids', dtype: 'I64', shape: [3], bytes: new Uint8Array(ids.buffer) })
  return samples
}

/** A fine-tune of `base`: every float weight but each seventh moved. */
export function sampleTuned(base: readonly Sample[], dtype: FloatDtype, seed: number): Sample[] {
  const normal = normals(seed)
  return base.map(({ name, shape, bytes, ...rest }) => {
    if (rest.dtype === 'I64') return { name, shape, bytes, ...rest }
    const values = Float32Array.from(
      { length: elementCount(shape) },
      (_, i) => valueAt(bytes, dtype, i) + (i % 7 === 0 ? 0 : 0.003 * normal()),
    )
    return sample(name, dtype, shape, values)
  })
}

/** A zero base and a fine-tune of it whose magnitudes all differ: what a strategy keeps does not depend on the order of ties. */
export function tieless(dtype: FloatDtype): { base: Sample[]; tuned: Sample[] } {
  const shapes = SHAPES.filter(([, shape]) => elementCount(shape) > 1)
  const base = shapes.map(([name, shape]) =>
    sample(name, dtype, shape, new Float32Array(elementCount(shape))),
  )
  const tuned = shapes.map(([name, shape], t) => {
    const count = elementCount(shape)
    // Neighbouring 16-bit patterns from a small normal number up to about 2, in an order that a step coprime to the count mixes.
    const first = dtype === 'F16' ? 0x1000 : 0x3000
    const values = Float32Array.from({ length: count }, (_, i) => {
      const pattern = first + ((i * 1237 + t) % count)
      const magnitude =
        dtype === 'F16'
          ? new Float16Array(Uint16Array.of(pattern).buffer)[0]!
          : new Float32Array(Uint32Array.of(pattern << 16).buffer)[0]!
      return (i * 31 + t) % 3 === 0 ? -magnitude : magnitude
    })
    return sample(name, dtype, shape, values)
  })
  return { base, tuned }
}

/** Writes `samples` as a model folder of so many shards, with the names dealt out in turn: name order and shard order differ. */
export function writeModel(folder: string, samples: readonly Sample[], shards: number): string {
  mkdirSync(folder, { recursive: true })
  for (let shard = 0; shard < shards; shard++) {
    const own = samples.filter((_sample, i) => (i * 5) % shards === shard)
    const layout = buildLayout(own, new Map([['format', 'pt']]))
    const bytes = new Map(own.map(({ name, bytes }) => [name, bytes]))
    const number = `${String(shard + 1).padStart(5, '0')}-of-${String(shards).padStart(5, '0')}`
    const path = shards === 1 ? 'model.safetensors' : `model-${number}.safetensors`
    const data = layout.tensors.map(({ name }) => bytes.get(name)!)
    writeFileSync(join(folder, path), Buffer.concat([layout.header, ...data]))
  }
  return folder
}

function sample(
  name: string,
  dtype: FloatDtype,
  shape: readonly number[],
  values: Float32Array,
): Sample {
  const bytes = new Uint8Array(values.length * (dtype === 'F32' ? 4 : 2))
  narrow(dtype, values, bytes)
  return { name, dtype, shape, bytes }
}

function valueAt(bytes: Uint8Array, dtype: FloatDtype, i: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  if (dtype === 'F32') return view.getFloat32(i * 4, true)
  if (dtype === 'F16') return view.getFloat16(i * 2, true)
  const word = new DataView(new ArrayBuffer(4))
  word.setUint32(0, view.getUint16(i * 2, true) << 16)
  return word.getFloat32(0)
}
