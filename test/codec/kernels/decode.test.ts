import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { type FloatDtype, itemBytes } from '../../../src/codec/base/dtypes.ts'
import { FRAME_ELEMENTS } from '../../../src/codec/base/limits.ts'
import type { FrameMachine, Int4Run, QuantizedRun } from '../../../src/codec/kernels/machine.ts'
import { PlainMachine } from '../../../src/codec/kernels/plain.ts'
import { openKernels } from '../../../src/codec/kernels/simd.ts'
import { Module } from '../../../src/codec/kernels/web-assembly.ts'
import { bits, bytes, maker, sameFloats, specialFloats, unaligned } from './samples.ts'

const wasm = readFileSync(new URL('../../../src/codec/kernels/kernels.wasm', import.meta.url))
const simd = openKernels(wasm)
const plain = new PlainMachine()
const COUNTS = [0, 1, 2, 3, 5, 15, 16, 17, 33, 127, 8191, 8192, 8193, 20_003]
const FLOATS = ['F16', 'BF16', 'F32', 'F64'] as const

/** Runs the same calls on both machines and compares every bit of the accumulator. */
function agree(t: Test, name: string, run: (machine: FrameMachine) => void): void {
  run(plain)
  run(simd)
  sameFloats(t, simd.values(), plain.values(), name)
}

t.test('every float16 loads as the same float32, whatever its class', async t => {
  const all = Uint16Array.from({ length: 65_536 }, (_, i) => i)
  agree(t, 'float16', machine => machine.load('F16', bytes(all), all.length))
  agree(t, 'bfloat16', machine => machine.load('BF16', bytes(all), all.length))
  simd.load('F16', bytes(all), all.length)
  t.equal(simd.values()[1], 2 ** -24, 'the smallest subnormal')
  t.equal(simd.values()[0x7bff], 65504, 'the largest')
  t.equal(simd.values()[0xfc00], -Infinity)
})

t.test('every float16 and bfloat16 survives load and store', async t => {
  const numbers = Uint16Array.from({ length: 65_536 }, (_, i) => i)
  for (const dtype of ['F16', 'BF16'] as const) {
    simd.load(dtype, bytes(numbers), numbers.length)
    const back = new Uint16Array(simd.store(dtype).slice().buffer)
    const mantissa = dtype === 'F16' ? 0x7c00 : 0x7f80
    const changed = back.findIndex((b, i) => b !== i && (i & 0x7fff) <= mantissa)
    t.equal(changed, -1, dtype)
  }
})

t.test('casts agree at every boundary between two neighbours', async t => {
  for (const dtype of ['F16', 'BF16'] as const) {
    const shift = dtype === 'F16' ? 13 : 16
    const edges = new Uint32Array(3 * 65_536)
    for (let i = 0; i < 65_536; i++) {
      const half = (i << 16) | (1 << (shift - 1))
      for (let k = 0; k < 3; k++) edges[3 * i + k] = half + k - 1
    }
    const finer = edges.map((b, i) => (dtype === 'F16' ? b ^ ((i * 0x2000) & 0xe000) : b))
    for (const each of [edges, finer]) {
      agree(t, dtype, machine => machine.load('F32', bytes(each), each.length))
      t.ok(bits(simd.store(dtype)) === bits(plain.store(dtype)), `store ${dtype}`)
      agree(t, `round ${dtype}`, machine => machine.round(dtype))
    }
  }
})

t.test('known values are rounded to float16 as the standard says', async t => {
  const values = [
    65519.996,
    65520,
    -65520,
    2 ** -25,
    2 ** -25 * 1.0001,
    2 ** -24 * 1.5,
    1 + 2 ** -11,
  ]
  const expected = [0x7bff, 0x7c00, 0xfc00, 0x0000, 0x0001, 0x0002, 0x3c00]
  for (const machine of [simd, plain]) {
    machine.load('F32', bytes(Float32Array.from(values)), values.length)
    t.same([...new Uint16Array(machine.store('F16').slice().buffer)], expected)
  }
})

t.test('NaN keeps its sign and the top of its payload, and turns quiet', async t => {
  const words = Uint32Array.of(0x7fc12345, 0xffa10000, 0x7f800001)
  for (const machine of [simd, plain]) {
    machine.load('F32', bytes(words), words.length)
    t.same(
      [...new Uint32Array(machine.store('F32').slice().buffer)],
      [...words],
      'F32 is untouched',
    )
    t.same([...new Uint16Array(machine.store('BF16').slice().buffer)], [0x7fc1, 0xffe1, 0x7fc0])
    t.same([...new Uint16Array(machine.store('F16').slice().buffer)], [0x7e09, 0xff08, 0x7e00])
  }
})

t.test('load, round, subtract and store agree for every count, aligned or not', async t => {
  const make = maker(1)
  for (const count of COUNTS) {
    for (const dtype of FLOATS) {
      const base = unaligned(make.cast(dtype, count), count % 4)
      const tuned = unaligned(make.cast(dtype, count), (count + 1) % 4)
      agree(t, `load ${dtype} ${count}`, machine => machine.load(dtype, base, count))
      agree(t, `subtract ${dtype} ${count}`, machine => machine.subtractFrom(dtype, tuned))
      for (const to of FLOATS) {
        t.ok(bits(simd.store(to)) === bits(plain.store(to)), `store ${to} ${count}`)
        agree(t, `round ${to} ${count}`, machine => machine.round(to))
      }
    }
  }
})

t.test('other dtypes load and subtract as in the plain machine', async t => {
  const make = maker(2)
  for (const dtype of [
    'I8',
    'U8',
    'BOOL',
    'I16',
    'U16',
    'I32',
    'U32',
    'I64',
    'U64',
    'C64',
  ] as const) {
    const width = itemBytes(dtype)
    const base = make.bytes(9000 * width)
    const tuned = make.bytes(9000 * width)
    agree(t, `load ${dtype}`, machine => machine.load(dtype, base, 9000))
    agree(t, `subtract ${dtype}`, machine => machine.subtractFrom(dtype, tuned))
  }
})

t.test('a whole frame of the widest dtype fits', async t => {
  const base = new Float64Array(FRAME_ELEMENTS).fill(1 / 3)
  simd.load('F64', bytes(base), FRAME_ELEMENTS)
  const back = new Float64Array(simd.store('F64').slice().buffer)
  t.ok(back.every(value => value === Math.fround(1 / 3)))
})

/** int4 over `count` elements with outliers by chance. */
function int4Run(
  make: ReturnType<typeof maker>,
  first: number,
  count: number,
  share: number,
): Int4Run {
  const { indices, listed } = make.indices(first, count, share)
  const nibble = (count & 1) as 0 | 1
  return {
    first,
    nibble,
    scale: make.half() * 0.001,
    zeroPoint: make.half(),
    indices: unaligned(indices, count % 8),
    values: unaligned(make.cast('F16', listed), 1),
    packed: unaligned(make.bytes((nibble + count - listed + 1) >> 1), 3),
  }
}

t.test('int4 agrees for every share of outliers', async t => {
  const make = maker(3)
  for (const count of COUNTS) {
    for (const share of [0, 0.01, 0.2, 0.5, 0.9, 1]) {
      const run = int4Run(make, count * 2 ** 33, count, share)
      const base = make.cast('BF16', count)
      agree(t, `int4 ${count} ${share}`, machine => {
        machine.load('BF16', base, count)
        machine.addInt4(run)
      })
    }
  }
})

t.test('int4: the high nibble comes first, outliers take none', async t => {
  const run: Int4Run = {
    first: 10,
    scale: 1,
    zeroPoint: -3,
    nibble: 1,
    indices: bytes(BigInt64Array.of(11n)),
    values: bytes(Float16Array.of(100)),
    packed: Uint8Array.of(0xf2, 0x5a),
  }
  for (const machine of [simd, plain]) {
    machine.load('F32', bytes(Float32Array.of(0, 0.5, 0, 1)), 4)
    machine.addInt4(run)
    t.same([...machine.values()], [-1, 100.5, 2, 8])
  }
})

t.test(
  'sparse agrees for every density, and turns -0 into +0 only where nothing is listed',
  async t => {
    const make = maker(4)
    for (const count of COUNTS) {
      for (const share of [0, 0.001, 0.1, 0.5, 1]) {
        const first = count * 7
        const { indices, listed } = make.indices(first, count, share)
        const values = unaligned(make.cast('F32', listed), 2)
        const base = make.cast('F32', count)
        agree(t, `sparse ${count} ${share}`, machine => {
          machine.load('F32', base, count)
          machine.addSparse(first, indices, values)
        })
      }
    }
    for (const machine of [simd, plain]) {
      machine.load('F32', bytes(Float32Array.of(-0, -0, -0)), 3)
      machine.addSparse(0, bytes(BigInt64Array.of(1n)), bytes(Float32Array.of(-0)))
      t.ok(Object.is(machine.values()[0], 0))
      t.ok(Object.is(machine.values()[1], -0), 'a listed -0 is added')
    }
  },
)

t.test('quantized agrees for rows of every length', async t => {
  const make = maker(5)
  for (const count of COUNTS.slice(1)) {
    for (const columns of [1, 2, 3, 7, 31, 32, 33, 100, 128, 5000, 2 ** 40]) {
      const column = (count * 13) % columns
      const bit = count % 8
      const run: QuantizedRun = {
        bit,
        column,
        columns,
        signs: unaligned(make.bytes((bit + count + 7) >> 3), 1),
        scales: unaligned(make.finite('F16', Math.ceil((column + count) / columns)), 1),
      }
      const base = make.cast('BF16', count)
      agree(t, `quantized ${count} ${columns}`, machine => {
        machine.load('BF16', base, count)
        machine.addQuantized(run)
      })
    }
  }
})

t.test('the longest parts that a frame can have fit', async t => {
  const make = maker(6)
  const count = FRAME_ELEMENTS
  const base = make.cast('BF16', count)
  const { indices } = make.indices(7, count, 1)
  const halves = make.finite('F16', count)
  agree(t, 'all nibbles, all outliers, all kept, a row for each', machine => {
    machine.load('BF16', base, count)
    const run = { first: 7, scale: 0.01, zeroPoint: -0.05, nibble: 1 as const, values: halves }
    machine.addInt4({ ...run, indices: new Uint8Array(0), packed: base.subarray(0, count / 2 + 1) })
    machine.addInt4({ ...run, indices, packed: new Uint8Array(1) })
    machine.addSparse(7, indices, bytes(new Float32Array(count).fill(0.25)))
    machine.addQuantized({ bit: 7, column: 0, columns: 1, signs: base, scales: halves })
  })
  const few = { threshold: 0, takePositive: count, takeNegative: count }
  const codes = [simd, plain].map(machine =>
    machine.quantizeInt4({ ...few, threshold: 0x7fffffff, min: -1, range: 2, nibble: 1 }),
  )
  t.ok(bits(codes[0]!.packed) === bits(codes[1]!.packed), 'codes')
  t.equal(simd.selectTop(few).offsets.length, count)
  t.ok(bits(simd.packSigns(7)) === bits(plain.packSigns(7)), 'signs')
})

t.test('indices out of order or outside the frame are refused', async t => {
  const cases = [
    [3n, 3n],
    [4n, 3n],
    [99n],
    [108n],
    [-1n],
    [2n ** 62n],
    [-(2n ** 63n)],
    [100n, 2n ** 32n + 101n],
  ]
  for (const machine of [simd, plain]) {
    for (const values of cases) {
      const indices = bytes(BigInt64Array.from(values))
      const refused = { name: 'CodecError', rule: 'index-order' }
      machine.load('F32', new Uint8Array(32), 8)
      t.throws(
        () => machine.addSparse(100, indices, new Uint8Array(8)),
        refused,
        `sparse ${values}`,
      )
      const run = { first: 100, scale: 1, zeroPoint: 0, nibble: 0 as const, indices }
      const parts = { values: new Uint8Array(4), packed: new Uint8Array(4) }
      t.throws(() => machine.addInt4({ ...run, ...parts }), refused, `int4 ${values}`)
    }
  }
})

t.test('parts that are too short are refused, counts that no frame has too', async t => {
  const short = { name: 'CodecError', rule: 'part-length' }
  const none = new Uint8Array(0)
  const one = bytes(BigInt64Array.of(0n))
  const int4 = { first: 0, scale: 1, zeroPoint: 0, nibble: 0 as const, indices: none, values: none }
  const quantized = {
    bit: 7,
    column: 3,
    columns: 4,
    signs: new Uint8Array(2),
    scales: new Uint8Array(6),
  }
  for (const machine of [simd, plain]) {
    t.throws(() => machine.load('F32', new Uint8Array(31), 8), short)
    t.throws(() => machine.load('U8', none, FRAME_ELEMENTS + 1), {
      name: 'CodecError',
      rule: 'frame-size',
    })
    t.throws(() => machine.load('U8', none, -1), { name: 'CodecError', rule: 'frame-size' })
    machine.load('F32', new Uint8Array(32), 8)
    t.throws(() => machine.subtractFrom('F32', new Uint8Array(31)), short)
    t.throws(() => machine.addInt4({ ...int4, packed: new Uint8Array(3) }), short)
    t.throws(() => machine.addInt4({ ...int4, indices: one, packed: new Uint8Array(4) }), short)
    t.throws(() => machine.addSparse(0, one, new Uint8Array(3)), short)
    t.throws(() => machine.addSparse(0, one.subarray(1), new Uint8Array(4)), short)
    t.throws(() => machine.addSparse(0, new Uint8Array(72), new Uint8Array(72)), short)
    machine.addQuantized(quantized)
    t.throws(() => machine.addQuantized({ ...quantized, signs: new Uint8Array(1) }), short)
    t.throws(() => machine.addQuantized({ ...quantized, scales: new Uint8Array(5) }), short)
  }
})

t.test('special values pass through every addition', async t => {
  const values = specialFloats()
  const { length } = values
  const indices = bytes(BigInt64Array.from({ length }, (_, i) => BigInt(i)))
  const stores: FloatDtype[] = ['BF16', 'F16', 'F64']
  agree(t, 'pairs of special values', machine => {
    machine.load('F32', bytes(values), length)
    machine.addSparse(0, indices, bytes(values.toReversed()))
  })
  for (const dtype of stores) t.ok(bits(simd.store(dtype)) === bits(plain.store(dtype)), dtype)
})

t.test('kernels open from a compiled module as well', async t => {
  const machine = openKernels(new Module(wasm))
  machine.load('F32', bytes(Float32Array.of(1.5)), 1)
  t.same([...machine.values()], [1.5])
})
