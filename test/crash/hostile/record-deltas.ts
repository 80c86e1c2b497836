import { createHash } from 'node:crypto'
import {
  type Record as ArrayRecord,
  deltaFile,
  f16s,
  f32s,
  i64s,
  record,
} from '../../support/models/wdelta-files.ts'
import { resealed } from '../../support/models/wdelta-v2-files.ts'
import { type Draws, JSON_NUMBERS, type Makers } from './draws.ts'

/** Makers of deltas of version 1 that are hostile, and of some that are sound. */
export function recordDeltas(draw: Draws): Makers {
  const { random } = draw
  return {
    'v1, sound': () =>
      draw.delta(deltaFile(headerOf(draw), recordsOf(draw)), { fields: draw.named }),
    'v1, another parent': () => {
      const header = headerOf(draw).replace(partHash(draw), '0'.repeat(64))
      return draw.delta(deltaFile(header, recordsOf(draw)))
    },
    'v1, a number of the header': () => {
      const json = headerOf(draw).replace(/(?<=[:,[])\d+(\.\d+)?/g, number =>
        random.chance(5) ? random.pick(JSON_NUMBERS) : number,
      )
      return draw.delta(deltaFile(json, recordsOf(draw)))
    },
    'v1, JSON': () => draw.delta(deltaFile(draw.json(headerOf(draw)), recordsOf(draw))),
    'v1, a number of a record': () => {
      const records = recordsOf(draw).map(one => {
        if (random.chance(70)) return one
        const change = { ...one, dims: [draw.number()], length: draw.number() }
        return random.chance(50) ? change : { ...one, dims: [draw.number()] }
      })
      return draw.delta(deltaFile(headerOf(draw), records))
    },
    'v1, bytes': () => {
      const file = deltaFile(headerOf(draw), recordsOf(draw))
      const cut = random.chance(30) ? file.subarray(0, random.below(file.length)) : file
      return draw.delta(resealed(draw.flipped(cut)))
    },
    'v1, huge sparse tensors': () => {
      const shape = random.pick([[2 ** 32, 2 ** 8], [2 ** 20, 2 ** 20], [2 ** 31], [1100, 1000]])
      const kept = [0, 1, 50_000][random.below(3)]!
      const step = Math.floor(shape.reduce((a, b) => a * b, 1) / (kept + 1))
      const indices = i64s(...Array.from({ length: kept }, (_, i) => i * step))
      const values = new Uint8Array(kept * 4)
      const entry = {
        strategy: 'sparse',
        shape,
        dtype: 'float32',
        sparsity: 0.9,
        indices: { _ref: 'indices' },
        values: { _ref: 'values' },
      }
      const header = {
        parent_hash: draw.base.parentHash,
        strategy: 'sparse',
        tensors: { big: entry },
      }
      const records = [
        record('big', 'indices', 'int64', 8, indices),
        record('big', 'values', 'float32', 4, values),
      ]
      return draw.delta(deltaFile(header, records), { logicalBytes: 3e6 })
    },
    'v1, many tensors': () => {
      const count = random.below(9000)
      const entry = {
        strategy: 'sparse',
        shape: [random.below(3)],
        dtype: 'float32',
        sparsity: 0,
        indices: { _ref: 'indices' },
        values: { _ref: 'values' },
      }
      const tensors = Object.fromEntries(Array.from({ length: count }, (_, i) => [`t${i}`, entry]))
      const header = { parent_hash: draw.base.parentHash, strategy: 'sparse', tensors }
      const records = random.chance(50)
        ? []
        : Object.keys(tensors)
            .slice(0, 2000)
            .flatMap(name => [
              record(name, 'indices', 'int64', 8, i64s()),
              record(name, 'values', 'float32', 4, f32s()),
            ])
      return draw.delta(deltaFile(header, records), { tensors: count })
    },
  }
}

/** A header of all three strategies, against the small tensors. */
function headerOf(draw: Draws): string {
  const refs = (...fields: string[]) =>
    Object.fromEntries(fields.map(field => [field, { _ref: field }]))
  const float = { dtype: 'float32' }
  return JSON.stringify({
    parent_hash: partHash(draw),
    strategy: 'int4',
    tensors: {
      bias: {
        ...float,
        strategy: 'int4',
        shape: [10],
        outlier_fraction: 0.1,
        n_elements: 10,
        n_outliers: 2,
        ...refs('outlier_idx', 'outlier_vals', 'scale', 'zero_point', 'packed'),
      },
      w: {
        ...float,
        strategy: 'quantized',
        shape: [64, 32],
        n_elements: 2048,
        n_cols: 32,
        ...refs('scales', 'packed_signs'),
        tuned_dtype: 'BF16',
      },
      ids: {
        ...float,
        strategy: 'sparse',
        shape: [4],
        sparsity: 0,
        ...refs('indices', 'values'),
      },
    },
  })
}

/** The reference's hash over the tensors that a version 1 delta names, in the order of its records. */
function partHash(draw: Draws): string {
  const hash = createHash('sha256')
  for (const name of ['bias', 'w', 'ids']) {
    hash.update(name).update(draw.base.tensors.find(tensor => tensor.name === name)!.bytes)
  }
  return hash.digest('hex')
}

/** The records of {@link headerOf}. */
function recordsOf(draw: Draws): ArrayRecord[] {
  const { bytes } = draw.base.tensors.find(({ name }) => name === 'w')!
  return [
    record('bias', 'outlier_idx', 'int64', 8, i64s(3, 8)),
    record('bias', 'outlier_vals', 'float16', 2, f16s(7, -7)),
    record('bias', 'scale', 'float16', 2, f16s(0.25)),
    record('bias', 'zero_point', 'float16', 2, f16s(-0.5)),
    record('bias', 'packed', 'uint8', 1, draw.random.bytes(4)),
    record('w', 'scales', 'float16', 2, f16s(...Array<number>(64).fill(0.01))),
    record('w', 'packed_signs', 'uint8', 1, bytes.slice(0, 256)),
    record('ids', 'indices', 'int64', 8, i64s()),
    record('ids', 'values', 'float32', 4, f32s()),
  ]
}
