import t from 'tap'
import {
  DTYPE_BITS,
  type Dtype,
  type FloatDtype,
  isDtype,
  itemBytes,
} from '../../../src/codec/base/dtypes.ts'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { canWiden, narrow, widen } from '../../../src/codec/base/widen.ts'
import { Random } from '../../support/random.ts'

/** Float32 bit patterns of the elements in `bytes`, which are tried at every alignment. */
function bitsOf(dtype: Dtype, bytes: Uint8Array): Uint32Array {
  const count = bytes.length / itemBytes(dtype)
  const results = [0, 1, 2, 3, 5].map(shift => {
    const moved = new Uint8Array(bytes.length + shift)
    moved.set(bytes, shift)
    const out = new Float32Array(count + 2).fill(-99).subarray(1, count + 1)
    widen(dtype, moved.subarray(shift), count, out)
    return new Uint32Array(out.buffer.slice(4, 4 + count * 4))
  })
  for (const result of results) {
    if (result.some((bits, i) => bits !== results[0]![i])) throw new Error('alignment matters')
  }
  return results[0]!
}

const valuesOf = (dtype: Dtype, bytes: Uint8Array) => [
  ...new Float32Array(bitsOf(dtype, bytes).buffer),
]
const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer)
const hex = (bits: Iterable<number>) => [...bits].map(one => (one >>> 0).toString(16))

/** The bytes that float32 bit patterns become, at an odd address too. */
function narrowed(dtype: FloatDtype, bits: Uint32Array): Uint8Array {
  const length = bits.length * itemBytes(dtype)
  const [even, odd] = [new Uint8Array(length), new Uint8Array(length + 1).subarray(1)]
  for (const out of [even, odd]) narrow(dtype, new Float32Array(bits.buffer), out)
  if (even.some((byte, i) => byte !== odd[i])) throw new Error('alignment matters')
  return even
}

t.test('integers become their nearest float32', async t => {
  t.strictSame(valuesOf('BOOL', Uint8Array.of(0, 1, 2, 255)), [0, 1, 1, 1])
  t.strictSame(valuesOf('U8', Uint8Array.of(0, 127, 128, 255)), [0, 127, 128, 255])
  t.strictSame(valuesOf('I8', Uint8Array.of(0, 127, 128, 255)), [0, 127, -128, -1])
  t.strictSame(valuesOf('I16', bytesOf(Int16Array.of(-32768, -1, 32767))), [-32768, -1, 32767])
  t.strictSame(valuesOf('U16', bytesOf(Uint16Array.of(0, 32768, 65535))), [0, 32768, 65535])
  const integers = [0, -1, 16777217, 16777219, -16777217, 2147483647, -2147483648]
  const i32 = valuesOf('I32', bytesOf(Int32Array.from(integers)))
  t.strictSame(i32, [0, -1, 16777216, 16777220, -16777216, 2147483648, -2147483648])
  const u32 = valuesOf('U32', bytesOf(Uint32Array.of(4294967295, 4294967167, 4294967168)))
  t.strictSame(u32, [4294967296, 4294967040, 4294967296])
})

t.test('64-bit integers are rounded once', async t => {
  /** Nearest float32 of a positive integer, ties to even, in integers alone. */
  const nearest = (value: bigint): number => {
    let shift = 0n
    while (value >> shift >= 1n << 24n) shift++
    if (shift === 0n) return Number(value)
    const low = value & ((1n << shift) - 1n)
    const half = 1n << (shift - 1n)
    const high = value >> shift
    const up = low > half || (low === half && (high & 1n) === 1n)
    return Number(high + (up ? 1n : 0n)) * 2 ** Number(shift)
  }
  const values = [0n, 1n, 2n ** 24n + 1n, 2n ** 53n - 1n, 2n ** 53n + 1n, 2n ** 63n - 1n]
  // To double and then to float32, these would be rounded down to a tie and then to even.
  const twice = [(1n << 60n) + (1n << 36n) + 1n, (1n << 62n) + (3n << 38n) - 1n]
  const random = new Random(9)
  const word = () => BigInt(random.next())
  const rest = Array.from({ length: 3000 }, () => {
    const value = (word() << 32n) | word()
    const near = (value >> 40n) << 40n
    return [value >> BigInt(random.below(64)), near | (1n << 39n), (near | (1n << 39n)) + 1n]
  })
  const all = [...values, ...twice, ...rest.flat(), 2n ** 64n - 1n]
  t.strictSame(valuesOf('U64', bytesOf(BigUint64Array.from(all))), all.map(nearest))
  const signed = all.map(value => BigInt.asIntN(64, value))
  const expected = signed.map(value => (value < 0n ? -nearest(-value) : nearest(value)))
  t.strictSame(valuesOf('I64', bytesOf(BigInt64Array.from(signed))), expected)
  t.not(Math.fround(Number(twice[0])), nearest(twice[0]!), 'rounding twice would show')
})

t.test('floats keep their value, or become the nearest float32', async t => {
  const halves = Uint16Array.of(0, 0x8000, 0x3c00, 0x7bff, 1, 0x83ff, 0x7c00, 0xfc00)
  const expected = [0, -0, 1, 65504, 2 ** -24, -1023 * 2 ** -24, Infinity, -Infinity]
  t.strictSame(valuesOf('F16', bytesOf(halves)), expected)
  const f32 = Uint32Array.of(0, 0x80000000, 1, 0x7f800000, 0x7f800001, 0xffffffff, 0x7fc12345)
  t.strictSame(hex(bitsOf('F32', bytesOf(f32))), hex(f32), 'every bit of F32')
  const bf16 = Uint16Array.of(0, 0x8000, 1, 0x3f80, 0x7f80, 0x7f81, 0xffff)
  t.strictSame(hex(bitsOf('BF16', bytesOf(bf16))), hex([...bf16].map(bits => bits << 16)))
  const doubles = [
    1,
    -0,
    1 + 2 ** -24,
    1 + 3 * 2 ** -24,
    1e300,
    -1e300,
    2 ** -149,
    2 ** -150,
    1e-300,
  ]
  const rounded = [1, -0, 1, 1 + 2 ** -22, Infinity, -Infinity, 2 ** -149, 0, 0]
  t.strictSame(valuesOf('F64', bytesOf(Float64Array.from(doubles))), rounded)
  const complex = Uint32Array.of(0x3f800000, 0x40000000, 0x7f800001, 0)
  t.strictSame(hex(bitsOf('C64', bytesOf(complex))), ['3f800000', '7f800001'], 'the real part')
})

t.test('NaN becomes quiet and keeps sign and payload, also when the code is hot', async t => {
  const halves = Uint16Array.of(0x7c01, 0x7e01, 0xfc01, 0xffff, 0x7dff)
  const singles = ['7fc02000', '7fc02000', 'ffc02000', 'ffffe000', '7fffe000']
  const doubles = BigUint64Array.of(0x7ff0000000000001n, 0x7ff8000020000000n, 0xfff4000060000000n)
  const back = BigUint64Array.of(0x7ff8000020000000n, 0x7ff8040000000000n, 0xfff82468a0000000n)
  const nan = Uint32Array.of(0x7f800001, 0x7fc02000, 0xff812345)
  for (let i = 0; i < 300; i++) {
    const results = [
      hex(bitsOf('F16', bytesOf(halves))),
      hex(bitsOf('F64', bytesOf(doubles))),
      hex(new Uint16Array(narrowed('F16', nan).buffer)),
      hex(new Uint16Array(narrowed('BF16', nan).buffer)),
      hex(new Uint32Array(narrowed('F32', nan).buffer)),
      [...new BigUint64Array(narrowed('F64', nan).buffer)],
    ]
    const expected = [
      singles,
      ['7fc00000', '7fc00001', 'ffe00003'],
      ['7e00', '7e01', 'fe09'],
      ['7fc0', '7fc0', 'ffc1'],
      hex(nan),
      [...back],
    ]
    if (i % 100 === 0) t.strictSame(results, expected)
    else if (`${results}` !== `${expected}`) t.fail(`${results}`)
  }
})

t.test('8-bit floats have the values of their definitions', async t => {
  const all = Uint8Array.from({ length: 256 }, (_, byte) => byte)
  const table = (dtype: Dtype) => valuesOf(dtype, all)
  const nans = (dtype: Dtype) =>
    hex([...bitsOf(dtype, all)].filter(bits => (bits & 0x7fffffff) > 0x7f800000))
  const e5m2 = table('F8_E5M2')
  // Its bits are the upper half of a float16.
  const halves = Uint8Array.from({ length: 512 }, (_, i) => (i & 1 ? i >> 1 : 0))
  const wide = valuesOf('F16', halves)
  t.strictSame(
    e5m2.filter(value => !Number.isNaN(value)),
    wide.filter(value => !Number.isNaN(value)),
  )
  t.strictSame(nans('F8_E5M2'), [...Array(3).fill('7fc00000'), ...Array(3).fill('ffc00000')])

  const e4m3 = table('F8_E4M3')
  t.strictSame(
    [e4m3[0], e4m3[1], e4m3[7], e4m3[8], e4m3[0x38], e4m3[0x7e], e4m3[0xfe]],
    [...[0, 2 ** -9, 7 * 2 ** -9, 2 ** -6, 1, 448, -448]],
  )
  t.ok(Object.is(e4m3[0x80], -0))
  t.strictSame(nans('F8_E4M3'), ['7fc00000', 'ffc00000'])

  const e8m0 = table('F8_E8M0')
  t.strictSame([e8m0[0], e8m0[1], e8m0[127], e8m0[254]], [2 ** -127, 2 ** -126, 1, 2 ** 127])
  t.strictSame(nans('F8_E8M0'), ['7fc00000'])

  const e4m3fnuz = table('F8_E4M3FNUZ')
  t.strictSame(
    [e4m3fnuz[0], e4m3fnuz[1], e4m3fnuz[0x40], e4m3fnuz[0x7f], e4m3fnuz[0xff]],
    [...[0, 2 ** -10, 1, 240, -240]],
  )
  const e5m2fnuz = table('F8_E5M2FNUZ')
  t.strictSame(
    [e5m2fnuz[0], e5m2fnuz[1], e5m2fnuz[0x40], e5m2fnuz[0x7f], e5m2fnuz[0xff]],
    [...[0, 2 ** -17, 1, 57344, -57344]],
  )
  for (const dtype of ['F8_E4M3FNUZ', 'F8_E5M2FNUZ'] as const) {
    t.strictSame(nans(dtype), ['ffc00000'], 'only the pattern of -0')
  }
})

t.test('narrowing gives back what was widened', async t => {
  const all = Uint16Array.from({ length: 65536 }, (_, bits) => bits)
  for (const [dtype, infinity] of [
    ['F16', 0x7c00],
    ['BF16', 0x7f80],
  ] as const) {
    const again = new Uint16Array(narrowed(dtype, bitsOf(dtype, bytesOf(all))).buffer)
    const quiet = dtype === 'F16' ? 0x200 : 0x40
    const wrong = all.filter(
      bits => again[bits] !== ((bits & 0x7fff) > infinity ? bits | quiet : bits),
    )
    t.equal(wrong.length, 0, dtype)
  }
})

/** Float32 bit patterns of all kinds; every third one is within the range of float16, every third one is a tie in `dtype` or exact. */
function roundingCases(dtype: 'F16' | 'BF16'): Uint32Array {
  const random = new Random(11)
  const word = () => random.next()
  return Uint32Array.from({ length: 9000 }, (_, i) => {
    const bits = i % 3 === 0 ? word() : (word() & 0x80000000) + 0x33000000 + (word() % 0x14800000)
    if (i % 3 < 2) return bits
    return dtype === 'BF16' ? (bits & 0xffff0000) | 0x8000 : (bits & 0xffffe000) | 0x1000
  })
}

for (const [dtype, past] of [
  ['F16', 65536],
  ['BF16', 2 ** 128],
] as const) {
  t.test(`narrowing to ${dtype} rounds to nearest, ties to even`, async t => {
    const infinity = dtype === 'F16' ? 0x7c00 : 0x7f80
    const finite = Uint16Array.from({ length: infinity }, (_, half) => half)
    // As if the format went on after its last value: what rounds to the next one is infinite.
    const magnitudes = [...valuesOf(dtype, bytesOf(finite)), past]
    const cases = roundingCases(dtype)
    const halves = new Uint16Array(narrowed(dtype, cases).buffer)
    let ties = 0
    new Float32Array(cases.buffer).forEach((value, i) => {
      if (Number.isNaN(value)) return
      const half = halves[i]! & 0x7fff
      const away = (other: number) => {
        const magnitude = magnitudes[other]
        return magnitude === undefined
          ? Infinity
          : Math.abs(Math.min(Math.abs(value), past) - magnitude)
      }
      const distance = away(half)
      const next = Math.min(away(half - 1), away(half + 1))
      if (distance === next) ties++
      const right = distance < next || (distance === next && half % 2 === 0)
      if (!right || halves[i]! >>> 15 !== cases[i]! >>> 31) t.fail(`${value}: ${half.toString(16)}`)
    })
    t.ok(ties > 1000, `${ties} ties`)
  })
}

t.test('narrowing goes to infinity and to zero where the format ends', async t => {
  const edges = Float32Array.of(65519.996, 65520, -65520, 1e38, 2 ** -25, 2 ** -25 * 1.0000001)
  const bits = new Uint32Array(edges.buffer)
  const halves = new Uint16Array(narrowed('F16', bits).buffer)
  t.strictSame(hex(halves), ['7bff', '7c00', 'fc00', '7c00', '0', '1'])
  const most = Uint32Array.of(0x7f7f7fff, 0x7f7f8000, 0xff7fffff, 0x7f800000)
  const brains = new Uint16Array(narrowed('BF16', most).buffer)
  t.strictSame(hex(brains), ['7f7f', '7f80', 'ff80', '7f80'])
  t.strictSame([...new Float64Array(narrowed('F64', bits).buffer)], [...edges])
  t.strictSame(hex(new Uint32Array(narrowed('F32', bits).buffer)), hex(bits))
})

t.test('known dtypes are widened, from as many bytes as they take', async t => {
  const out = new Float32Array(4)
  for (const dtype of Object.keys(DTYPE_BITS).filter(isDtype)) {
    t.equal(canWiden(dtype), !/^F(4$|6_)/.test(dtype), dtype)
    if (!canWiden(dtype)) {
      t.throws(() => widen(dtype, new Uint8Array(9), 1, out), {
        name: 'CodecError',
        rule: 'sub-byte-dtype',
      })
      continue
    }
    const short = new Uint8Array(4 * itemBytes(dtype) - 1)
    t.throws(() => widen(dtype, short, 4, out), CodecError)
    widen(dtype, short, 3, out)
    widen(dtype, new Uint8Array(0), 0, out)
  }
})
