import fc from 'fast-check'
import t from 'tap'
import { PlainMachine } from '../../../src/codec/kernels/plain.ts'
import { encodeWhole } from '../../../src/codec/lossy/encode.ts'
import { runPass } from '../../../src/codec/lossy/passes.ts'
import type { Grid } from '../../../src/codec/lossy/program.ts'
import {
  type PlannedTensor,
  planRecordDelta,
  type RecordDeltaOptions,
} from '../../../src/codec/wdelta/v1/writer.ts'

/** Runs so short that small tensors have many, with every kind of border. */
const GRID: Grid = { cell: 8, run: 48 }
const f = Math.fround
const machine = new PlainMachine()

type Options = Pick<RecordDeltaOptions, 'strategy' | 'outlierFraction' | 'sparsity'>

function plan(shape: number[], options: Options): PlannedTensor {
  const count = shape.reduce((a, b) => a * b, 1)
  const tensor = { name: 'w', shape, count, dtype: 'F32' as const, changed: true }
  return planRecordDelta({ ...options, parentHash: '0'.repeat(64), tensors: [tensor] }).tensors[0]!
}

/** The arrays that we write for a delta, by name. */
function encode(delta: Float32Array, shape: number[], options: Options, grid: Grid = GRID) {
  const planned = plan(shape, options)
  const data = encodeWhole(
    planned,
    ({ first, count }, pass) => {
      machine.load('F32', new Uint8Array(delta.slice(first, first + count).buffer), count)
      return runPass(machine, pass)
    },
    grid,
  )
  let at = 0
  const arrays: Record<string, Uint8Array> = {}
  for (const { field, bytes } of planned.arrays) {
    arrays[field.name] = data.slice(at, at + bytes)
    at += bytes
  }
  return arrays
}

const bytesOf = (array: ArrayBufferView) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength).slice()

/** The reference, in as many words; of equal magnitudes the positive are taken first, which argpartition leaves open. */
function largest(delta: Float32Array, kept: number): number[] {
  const order = Array.from(delta.keys()).sort((a, b) => {
    const [x, y] = [Math.abs(delta[a]!), Math.abs(delta[b]!)]
    if (x !== y) return y - x
    return (
      Number(1 / delta[a]! < 0 || delta[a]! < 0) - Number(1 / delta[b]! < 0 || delta[b]! < 0) ||
      a - b
    )
  })
  return order.slice(0, kept).sort((a, b) => a - b)
}

function roundHalfEven(x: number): number {
  const low = Math.floor(x)
  if (x - low !== 0.5) return Math.round(x)
  return low % 2 === 0 ? low : low + 1
}

/** Source: deltatensors 0.2.0 `compress_int4.py`. */
function referenceInt4(delta: Float32Array, fraction: number) {
  const outliers = largest(delta, Math.max(1, Math.trunc(delta.length * fraction)))
  const rest = delta.filter((_, i) => !outliers.includes(i))
  const min = rest.reduce((a, b) => Math.min(a, b), Infinity)
  const range = rest.reduce((a, b) => Math.max(a, b), -Infinity) - min
  const codes = Array.from(rest, x => {
    if (range < 1e-8) return 0
    const q = roundHalfEven(f(f(f(x - f(min)) / f(range)) * 15))
    return Math.min(Math.max(q, 0), 15)
  })
  if (codes.length % 2) codes.push(0)
  return {
    outlier_idx: bytesOf(BigInt64Array.from(outliers, BigInt)),
    outlier_vals: bytesOf(Float16Array.from(outliers, i => delta[i]!)),
    scale: bytesOf(Float16Array.of(range < 1e-8 ? 1 : range / 15)),
    zero_point: bytesOf(Float16Array.of(min)),
    packed: Uint8Array.from({ length: codes.length / 2 }, (_, i) => {
      return (codes[i * 2]! << 4) | codes[i * 2 + 1]!
    }),
  }
}

/** Source: deltatensors 0.2.0 `compress.py`. */
function referenceSparse(delta: Float32Array, sparsity: number) {
  const kept = largest(delta, Math.max(1, Math.trunc(delta.length * (1 - sparsity))))
  return {
    indices: bytesOf(BigInt64Array.from(kept, BigInt)),
    values: bytesOf(Float32Array.from(kept, i => delta[i]!)),
  }
}

/** Source: numpy `loops_utils.h.src`, `pairwise_sum`. */
function pairwise(x: Float32Array): number {
  const n = x.length
  if (n < 8) return x.reduce((a, b) => f(a + b), 0)
  if (n > 128) {
    const half = Math.floor(n / 2)
    const left = half - (half % 8)
    return f(pairwise(x.subarray(0, left)) + pairwise(x.subarray(left)))
  }
  const r = x.slice(0, 8)
  let i = 8
  for (; i < n - (n % 8); i += 8) for (let j = 0; j < 8; j++) r[j] = r[j]! + x[i + j]!
  const pair = (a: number) => f(r[a]! + r[a + 1]!)
  let sum = f(f(pair(0) + pair(2)) + f(pair(4) + pair(6)))
  for (; i < n; i++) sum = f(sum + x[i]!)
  return sum
}

function referenceQuantized(delta: Float32Array, rows: number) {
  const columns = delta.length / rows
  const packed = new Uint8Array(Math.ceil(delta.length / 8))
  delta.forEach((x, i) => {
    if (!(x < 0)) packed[i >> 3]! |= 128 >> (i & 7)
  })
  const scales = Float16Array.from({ length: rows }, (_, row) => {
    const magnitudes = delta.subarray(row * columns, (row + 1) * columns).map(Math.abs)
    return f(pairwise(magnitudes) / f(columns))
  })
  return { scales: bytesOf(scales), packed_signs: packed }
}

/** Values with what trips an encoder: ties, zeros of both signs, the smallest and the largest. */
const value = fc.oneof(
  { weight: 6, arbitrary: fc.double({ min: -1, max: 1, noNaN: true }).map(x => f(x * 1e-3)) },
  { weight: 3, arbitrary: fc.integer({ min: -4, max: 4 }).map(n => f(n * 2 ** -12)) },
  { weight: 1, arbitrary: fc.constantFrom(0, -0, 1e-45, -1e-45, 100, -100, f(6.1e-5)) },
)
const deltaOf = (min: number, max: number) =>
  fc.array(value, { minLength: min, maxLength: max }).map(values => Float32Array.from(values))
const runs = { numRuns: Number(process.env['PROPERTY_RUNS'] ?? 300), seed: 20_261_124 }

t.test('int4 is what the reference makes, whatever the borders', async t => {
  const fraction = fc.constantFrom(0.01, 0.05, 0.3, 0.5, 0.9)
  fc.assert(
    fc.property(deltaOf(2, 400), fraction, (delta, outlierFraction) => {
      fc.pre(Math.trunc(delta.length * outlierFraction) < delta.length)
      const found = encode(delta, [delta.length], { strategy: 'int4', outlierFraction })
      t.strictSame(found, referenceInt4(delta, outlierFraction))
    }),
    runs,
  )
})

t.test('sparse is what the reference makes, whatever the borders', async t => {
  fc.assert(
    fc.property(deltaOf(1, 400), fc.constantFrom(0, 0.5, 0.9, 0.99), (delta, sparsity) => {
      const found = encode(delta, [delta.length], { strategy: 'sparse', sparsity })
      t.strictSame(found, referenceSparse(delta, sparsity))
    }),
    runs,
  )
})

t.test('quantized is what the reference makes, also where a row is longer than a run', async t => {
  const shape = fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 300 }))
  fc.assert(
    fc.property(shape, fc.infiniteStream(value), ([rows, columns], stream) => {
      const delta = Float32Array.from(stream.take(rows * columns))
      const found = encode(delta, [rows, columns], { strategy: 'quantized' })
      t.strictSame(found, referenceQuantized(delta, rows))
    }),
    runs,
  )
})

t.test('a long row is summed as numpy sums it, through runs of the real size', async t => {
  const columns = 700_001
  const delta = Float32Array.from({ length: columns * 2 }, (_, i) => f(Math.sin(i * 1.7) * 1e-3))
  const { scales } = encode(
    delta,
    [2, columns],
    { strategy: 'quantized' },
    { cell: 65_536, run: 524_288 },
  )
  t.strictSame(scales, referenceQuantized(delta, 2).scales)
})

t.test('the order of equal magnitudes does not change how many are kept', async t => {
  const delta = new Float32Array(1000).fill(0.5).map((x, i) => (i % 3 ? x : -x))
  const { indices } = encode(delta, [1000], { strategy: 'sparse', sparsity: 0.5 })
  t.strictSame(indices, referenceSparse(delta, 0.5).indices)
  t.equal(new Set(new BigInt64Array(indices!.buffer)).size, 500)
})

t.test(
  'a tensor that int4 cannot hold is sparse without loss, an empty one has no data',
  async t => {
    const one = encode(Float32Array.of(0.25), [], { strategy: 'int4' })
    t.strictSame(one, {
      indices: bytesOf(BigInt64Array.of(0n)),
      values: bytesOf(Float32Array.of(0.25)),
    })
    for (const strategy of ['int4', 'sparse', 'quantized'] as const) {
      const empty = encode(new Float32Array(0), [0, 4], { strategy })
      t.ok(Object.values(empty).every(array => array.length === 0))
    }
  },
)

t.test(
  'what is not finite: kept where there is room, refused where it would spoil the rest',
  async t => {
    const delta = Float32Array.from({ length: 200 }, (_, i) => f(i * 1e-4))
    const [nan, inf] = [delta.slice(), delta.slice()]
    nan[7] = NaN
    inf[9] = Infinity
    const int4 = { strategy: 'int4', outlierFraction: 0.01 } as const
    for (const spoilt of [nan, inf]) {
      const { outlier_idx } = encode(spoilt, [200], int4)
      t.equal(new BigInt64Array(outlier_idx!.buffer)[0], spoilt === nan ? 7n : 9n)
      const sparse = encode(spoilt, [200], { strategy: 'sparse', sparsity: 0.99 })
      t.notOk(Number.isFinite(new Float32Array(sparse['values']!.buffer)[0]))
      const wanted = { name: 'CodecError', rule: 'not-finite' }
      t.throws(() => encode(spoilt, [200], { strategy: 'quantized' }), wanted)
    }
    const many = delta.slice().fill(NaN, 50, 60)
    t.throws(() => encode(many, [200], int4), { name: 'CodecError', rule: 'not-finite' })
    const wide = delta.slice()
    wide[0] = -3e38
    wide[1] = 3e38
    wide[2] = 2e38
    t.throws(() => encode(wide, [200], int4), { name: 'CodecError', rule: 'not-finite' })
  },
)
