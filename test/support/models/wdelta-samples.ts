import type { Random } from '../random.ts'
import { deltaFile, f16s, f32s, goldenDeltas, i64s, PARENT, record } from './wdelta-files.ts'

/** A valid file of one tensor per strategy, in `order` of its records; small enough that a change hits structure. */
export function smallDelta(order: (i: number) => number = i => i): Uint8Array {
  const ref = (...fields: string[]): object =>
    Object.fromEntries(fields.map(field => [field, { _ref: field }]))
  const base = { dtype: 'float32' }
  const tensors = {
    i: {
      ...base,
      strategy: 'int4',
      shape: [9],
      outlier_fraction: 0.2,
      n_elements: 9,
      n_outliers: 2,
      ...ref('outlier_idx', 'outlier_vals', 'scale', 'zero_point', 'packed'),
      tuned_dtype: 'BF16',
    },
    q: {
      ...base,
      strategy: 'quantized',
      shape: [3, 5],
      n_elements: 15,
      n_cols: 5,
      ...ref('scales', 'packed_signs'),
    },
    s: {
      ...base,
      strategy: 'sparse',
      shape: [2, 5],
      sparsity: 0.7,
      ...ref('indices', 'values'),
    },
  }
  const records = [
    record('i', 'outlier_idx', 'int64', 8, i64s(3, 8)),
    record('i', 'outlier_vals', 'float16', 2, f16s(7, -7)),
    record('i', 'scale', 'float16', 2, f16s(0.25)),
    record('i', 'zero_point', 'float16', 2, f16s(-0.5)),
    record('i', 'packed', 'uint8', 1, Uint8Array.of(0x01, 0x23, 0x45, 0x60)),
    record('q', 'scales', 'float16', 2, f16s(0.5, 0, 1)),
    record('q', 'packed_signs', 'uint8', 1, Uint8Array.of(0xa5, 0xfe)),
    record('s', 'indices', 'int64', 8, i64s(0, 4, 9)),
    record('s', 'values', 'float32', 4, f32s(1, -2, 3)),
  ]
  const ordered = records.map((_, i) => records[order(i)]!)
  return deltaFile({ parent_hash: PARENT, strategy: 'int4', tensors }, ordered)
}

/** Files to change: the small one in two orders, and the smallest golden file of each strategy. */
export function seedFiles(): Uint8Array[] {
  const golden = [...goldenDeltas().entries()].sort(([, a], [, b]) => a.length - b.length)
  const smallest = ['int4', 'sparse', 'quantized'].map(strategy => {
    const found = golden.find(([path]) => path.startsWith(strategy))
    if (!found) throw new Error(`no golden file of ${strategy}`)
    return found[1]
  })
  return [smallDelta(), smallDelta(), smallDelta(i => (i * 4) % 9), ...smallest]
}

const EDGES = [0, 1, 0x7f, 0x80, 0xff]
const WORDS = [0, 1, 2, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]

/** `payload` with one to three changes of a byte, a word or a run; most of them after its header. */
export function mutate(payload: Uint8Array, random: Random): Uint8Array {
  const below = (limit: number) => Math.floor(random.float() * limit)
  const pick = <T>(items: readonly T[]): T => items[below(items.length)]!
  const bytes = [...payload]
  const records = 15 + new DataView(payload.buffer, payload.byteOffset).getUint32(11, true)
  for (let changes = 1 + below(3); changes > 0; changes--) {
    const from = random.float() < 0.7 ? Math.min(records, bytes.length) : 0
    const at = from + below(bytes.length - from)
    const run = bytes.slice(at, at + 1 + below(40))
    const changed: (() => number[])[] = [
      () => bytes.splice(at, 1, bytes[at]! ^ (1 << below(8))),
      () => bytes.splice(at, 1, pick(EDGES)),
      () => bytes.splice(at, 1, 0x30 + below(10)),
      () => bytes.splice(at, 4, ...new Uint8Array(Uint32Array.of(pick(WORDS)).buffer)),
      () => bytes.splice(at, run.length),
      () => bytes.splice(at, 0, ...run),
      () => bytes.splice(below(bytes.length), 0, ...run),
    ]
    pick(changed)()
  }
  return Uint8Array.from(bytes)
}
