import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Cut, FrameMachine, Int4Grid } from '../../../src/codec/kernels/machine.ts'
import { PlainMachine } from '../../../src/codec/kernels/plain.ts'
import { openKernels } from '../../../src/codec/kernels/simd.ts'
import { bits, bytes, maker, sameFloats } from './samples.ts'

const wasm = new URL('../../../src/codec/kernels/kernels.wasm', import.meta.url)
const simd = openKernels(readFileSync(wasm))
const plain = new PlainMachine()
const COUNTS = [0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 127, 129, 1000, 8191, 8193, 20_003]

/** Accumulators to encode: anything, few distinct values (many ties), nothing but zeros. */
function* samples(): Generator<[string, Float32Array<ArrayBuffer>]> {
  const make = maker(11)
  for (const count of COUNTS) {
    yield [`anything ${count}`, make.floats(count, 0.05)]
    const few = Float32Array.from({ length: count }, () => (make.random.below(5) - 2) / 8)
    yield [`ties ${count}`, few]
    yield [`zeros ${count}`, few.map(v => v * 0)]
  }
}

/** Loads each sample into both machines and compares what `run` gives. */
function agree(t: Test, run: (machine: FrameMachine, values: Float32Array) => unknown): void {
  for (const [name, values] of samples()) {
    const [actual, expected] = [simd, plain].map(machine => {
      machine.load('F32', bytes(values), values.length)
      return run(machine, values)
    })
    t.strictSame(actual, expected, name)
    sameFloats(t, simd.values(), values, `${name} is left as it was`)
  }
}

/** Magnitudes around which to cut: some of the sample's own, and the ends. */
function thresholds(values: Float32Array): number[] {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const own = [0, 0.3, 0.9].map(share => words[Math.floor(share * words.length)] ?? 5)
  return [0, 0x7f800000, 0x7fffffff, ...own.map(word => word & 0x7fffffff)]
}

function* cuts(values: Float32Array): Generator<Cut> {
  for (const threshold of thresholds(values)) {
    for (const [takePositive, takeNegative] of [
      [0, 0],
      [1, 5],
      [21, 0],
      [2 ** 40, 2 ** 33],
    ] as const) {
      yield { threshold, takePositive, takeNegative }
    }
  }
}

t.test('histograms agree, and add to what is there', async t => {
  agree(t, machine => {
    const into = new Uint32Array(65_536).fill(3)
    machine.histogramHigh(into)
    return bits(bytes(into))
  })
  agree(t, (machine, values) => {
    const highs = [...thresholds(values).map(threshold => threshold >>> 15), 0xffff]
    return highs.map(high => {
      const positive = new Uint32Array(32_768).fill(1)
      const negative = new Uint32Array(32_768).fill(2)
      const { min, max } = machine.histogramLow(high, positive, negative)
      return { min, max, counts: bits(bytes(positive)) + bits(bytes(negative)) }
    })
  })
})

t.test('a histogram counts known values where they belong', async t => {
  const values = Float32Array.of(1, -1, -0.5, 0.25, 1 + 2 ** -23, -0, 2)
  const high = 0x3f800000 >>> 15
  for (const machine of [simd, plain]) {
    machine.load('F32', bytes(values), values.length)
    const into = new Uint32Array(65_536)
    machine.histogramHigh(into)
    t.equal(into[high], 3)
    t.equal(into[0], 1)
    const positive = new Uint32Array(32_768)
    const negative = new Uint32Array(32_768)
    t.same(machine.histogramLow(high, positive, negative), { min: -0.5, max: 0.25 })
    t.same([positive[0], positive[1], negative[0], negative[1]], [1, 1, 1, 0])
    const none = machine.histogramLow(0, positive, negative)
    t.same(none, { min: Infinity, max: -Infinity }, 'nothing lies below')
    const { min, max } = machine.histogramLow(0x3e800000 >>> 15, positive, negative)
    t.ok(Object.is(min, -0) && Object.is(max, -0), 'the sign of zero stays')
  }
})

t.test('counts, selections and int4 codes agree', async t => {
  agree(t, (machine, values) => thresholds(values).map(threshold => machine.countAbove(threshold)))
  agree(t, (machine, values) => [...cuts(values)].map(cut => texts(machine.selectTop(cut))))
  agree(t, (machine, values) =>
    [...cuts(values)].flatMap(cut =>
      grids().map(grid => texts(machine.quantizeInt4({ ...cut, ...grid }))),
    ),
  )
})

function grids(): Omit<Int4Grid, keyof Cut>[] {
  return [
    { min: -0.25, range: 0.5, nibble: 0 },
    { min: -0.1, range: 0.3, nibble: 1 },
    { min: -1e-9, range: 9e-9, nibble: 1 },
    { min: -Infinity, range: Infinity, nibble: 0 },
    { min: NaN, range: NaN, nibble: 0 },
  ]
}

function texts(result: object): Record<string, string> {
  return Object.fromEntries(Object.entries(result).map(([key, array]) => [key, bits(bytes(array))]))
}

t.test(
  'int4 codes round half to even; outliers take no nibble, ties go by sign and order',
  async t => {
    const values = Float32Array.of(0, 15, 0.5, 1.5, 2.5, NaN, -20, 20, -20, 14.5)
    const cut = { threshold: 0x41a00000, takePositive: 0, takeNegative: 1 }
    for (const machine of [simd, plain]) {
      machine.load('F32', bytes(values), values.length)
      const {
        packed,
        offsets,
        values: kept,
      } = machine.quantizeInt4({ ...cut, min: 0, range: 15, nibble: 1 })
      t.same([...offsets], [5, 6], 'NaN is the largest magnitude')
      t.same([...kept], [NaN, -20])
      t.same([...packed], [0x00, 0xf0, 0x22, 0xf0, 0xe0])
      t.not(packed.buffer, machine.values().buffer, 'what is returned is no view')
    }
  },
)

t.test('signs agree at every bit offset', async t => {
  for (let bit = 0; bit < 8; bit++) agree(t, machine => bits(machine.packSigns(bit)))
  for (const machine of [simd, plain]) {
    machine.load('F32', bytes(Float32Array.of(-1, 1, -0, NaN, -Infinity, 0)), 6)
    t.same([...machine.packSigns(0)], [0b01110100])
    t.same([...machine.packSigns(5)], [0b00000011, 0b10100000])
  }
})

t.test('pairwise sums agree for every length', async t => {
  agree(t, (machine, { length }) =>
    [0, 1, 5].map(first =>
      machine.pairwiseAbsSum(Math.min(first, length), Math.max(0, length - first)),
    ),
  )
  const values = Float32Array.from({ length: 400 }, (_, i) => Math.sin(i * i))
  for (const machine of [simd, plain]) {
    machine.load('F32', bytes(values), values.length)
    for (let count = 0; count <= 300; count++) {
      if (machine.pairwiseAbsSum(3, count) !== plainSum(values, 3, count)) t.fail(`sum of ${count}`)
    }
  }
})

/** The sum as numpy defines it for at most 300 values, written out once more by halves of a row. */
function plainSum(values: Float32Array, first: number, count: number): number {
  const row = Array.from(values.subarray(first, first + count), Math.abs)
  if (count > 128) {
    const left = Math.floor(count / 16) * 8
    const rest = plainSum(values, first + left, count - left)
    return Math.fround(plainSum(values, first, left) + rest)
  }
  const lanes = [0, 1, 2, 3, 4, 5, 6, 7].map(k =>
    row
      .filter((_, i) => i % 8 === k && i < count - (count % 8))
      .reduce((a, b) => Math.fround(a + b), 0),
  )
  const pairs = [0, 2, 4, 6].map(k => Math.fround(lanes[k]! + lanes[k + 1]!))
  const halves = [0, 2].map(k => Math.fround(pairs[k]! + pairs[k + 1]!))
  const sum = Math.fround(halves[0]! + halves[1]!)
  return row.slice(count - (count % 8)).reduce((a, b) => Math.fround(a + b), sum)
}

t.test('errors and sums of squares agree', async t => {
  const make = maker(12)
  agree(t, machine => machine.sumOfSquares())
  for (const dtype of ['BF16', 'F16', 'F32', 'F64'] as const) {
    for (const stored of ['BF16', 'F16', 'F32', 'F64'] as const) {
      const tuned = make.cast(dtype, 20_003)
      agree(t, machine => machine.errorAgainst(dtype, tuned, stored))
    }
  }
  const codes = make.bytes(20_003)
  agree(t, machine => machine.errorAgainst('U8', codes, 'F32'))
})

t.test('errors of known values are what arithmetic says', async t => {
  const acc = Float32Array.of(1, 2 + 2 ** -10, NaN, 4, Infinity)
  const tuned = Float32Array.of(0.5, 2, 1, NaN, 1)
  for (const machine of [simd, plain]) {
    machine.load('F32', bytes(acc), acc.length)
    t.same(machine.errorAgainst('F32', bytes(tuned), 'BF16'), { squaredError: 0.25, maxAbs: 0.5 })
    const exact = machine.errorAgainst('F32', bytes(tuned), 'F32')
    t.same(exact, { squaredError: 0.25 + 2 ** -20, maxAbs: 0.5 })
    t.equal(machine.sumOfSquares(), 1 + (2 + 2 ** -10) ** 2 + 16)
    t.throws(() => machine.errorAgainst('F32', bytes(tuned).subarray(1), 'F32'), {
      name: 'CodecError',
      rule: 'part-length',
    })
  }
})
