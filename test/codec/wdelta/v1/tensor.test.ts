import t from 'tap'
import { CELL } from '../../../../src/codec/base/limits.ts'
import {
  type Int4Tensor,
  rankAt,
  type SparseTensor,
} from '../../../../src/codec/wdelta/delta-index.ts'
import { f16s, f32s, i64s, type Record, readDelta } from '../../../support/models/wdelta-files.ts'
import {
  indices,
  int4File,
  int4Records,
  int4With,
  type Json,
  outlierIdx,
  outlierVals,
  packed,
  quantizedFile,
  quantizedRecords,
  ruleOf,
  scale,
  scales,
  signs,
  sparseFile,
  values,
  zeroPoint,
} from './samples.ts'

t.test('sparse indices rise within the tensor, with a value for each', async t => {
  const rule = (index: Uint8Array, value: Uint8Array): string =>
    ruleOf(t, sparseFile([indices(index), values(value)]))
  t.equal(rule(i64s(0, 4, 9), f32s(1)), 'values-length')
  t.equal(ruleOf(t, sparseFile([values(f32s(1)), indices()])), 'indices-length')
  t.equal(rule(i64s(-1, 4, 9), f32s(1, 2, 3)), 'index-negative')
  t.equal(rule(i64s(0, 4, -(2n ** 63n)), f32s(1, 2, 3)), 'index-negative')
  t.equal(rule(i64s(0, 4, 10), f32s(1, 2, 3)), 'index-range')
  t.equal(rule(i64s(0, 4, 2n ** 32n + 5n), f32s(1, 2, 3)), 'index-range')
  t.equal(rule(i64s(0, 4, 2n ** 53n + 1n), f32s(1, 2, 3)), 'index-range')
  t.equal(rule(i64s(4, 0, 9), f32s(1, 2, 3)), 'index-order')
  t.equal(rule(i64s(4, 4, 9), f32s(1, 2, 3)), 'index-order')
  t.equal(rule(i64s(), f32s()), 'accepted')
  const wild = sparseFile([indices(), values(f32s(Number.NaN, Number.NEGATIVE_INFINITY, 3))])
  t.match(readDelta(wild).tensors, [{ nonFinite: 2, zero: false }])
  t.match(readDelta(sparseFile([indices(), values(f32s(0, -0, 0))])).tensors, [{ zero: true }])
})

t.test('quantized arrays are as long as rows and columns say', async t => {
  const rule = (changes: Json, records = quantizedRecords): string =>
    ruleOf(t, quantizedFile(records, changes))
  for (const n_elements of [14, 16, 0, -15, 15.5, '15', true, undefined]) {
    t.equal(rule({ n_elements }), 'element-count', String(n_elements))
  }
  for (const n_cols of [3, 0, -5, 5.5, 15, '5', undefined]) {
    t.equal(rule({ n_cols }), 'column-count', String(n_cols))
  }
  t.equal(rule({ shape: [5, 3] }), 'column-count')
  t.equal(rule({ shape: [0, 5], n_elements: 0 }), 'element-count')
  t.equal(rule({ shape: [0], n_elements: 0, n_cols: 0 }), 'element-count')
  t.equal(rule({}, [scales(f16s(1)), signs()]), 'scales-length')
  t.equal(rule({}, [scales(), signs(new Uint8Array(3))]), 'packed-signs-length')
  t.equal(rule({}, [scales(), signs(new Uint8Array(1))]), 'packed-signs-length')
  t.equal(rule({}, [scales(), signs(Uint8Array.of(0, 1))]), 'padding-bits')
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, -1, -0]) {
    t.equal(rule({}, [scales(f16s(0, value, 1)), signs()]), 'scales-value', String(value))
  }
  const still = quantizedFile([scales(f16s(0, 0, 0)), signs()])
  t.match(readDelta(still).tensors, [{ zero: true, columns: 5 }])
  const one = { shape: [], n_elements: 1, n_cols: 1 }
  t.equal(rule(one, [scales(f16s(1)), signs(Uint8Array.of(0x80))]), 'accepted')
  const full = { shape: [8], n_elements: 8, n_cols: 8 }
  t.equal(rule(full, [scales(f16s(1)), signs(Uint8Array.of(0xff))]), 'accepted')
})

t.test('int4 arrays are as long as elements and outliers say', async t => {
  const rule = (changes: Json, records = int4Records): string =>
    ruleOf(t, int4File(records, changes))
  const swapped = (other: Record): string => rule({}, int4With(other))
  for (const n_elements of [8, 10, -9, 9.5, undefined]) {
    t.equal(rule({ n_elements }), 'element-count', String(n_elements))
  }
  for (const n_outliers of [0, 9, -1, 2.5, '2', undefined]) {
    t.equal(rule({ n_outliers }), 'outlier-count', String(n_outliers))
  }
  t.equal(rule({ shape: [1], n_elements: 1, n_outliers: 1 }), 'outlier-count')
  t.equal(rule({ shape: [0], n_elements: 0, n_outliers: 0 }), 'outlier-count')
  for (const outlier_fraction of ['x', null, undefined]) {
    t.equal(rule({ outlier_fraction }), 'outlier-fraction', String(outlier_fraction))
  }
  t.equal(rule({ n_outliers: 3 }), 'outlier-idx-length')
  t.equal(swapped(outlierIdx(i64s(-1, 8))), 'index-negative')
  t.equal(swapped(outlierIdx(i64s(3, 9))), 'index-range')
  t.equal(swapped(outlierIdx(i64s(8, 3))), 'index-order')
  t.equal(swapped(outlierIdx(i64s(3, 3))), 'index-order')
  t.equal(swapped(outlierVals(f16s(1))), 'outlier-vals-length')
  t.equal(swapped(packed(new Uint8Array(5))), 'packed-length')
  t.equal(swapped(packed(new Uint8Array(3))), 'packed-length')
  t.equal(swapped(packed(Uint8Array.of(0, 0, 0, 1))), 'padding-nibble')
  t.equal(swapped(scale(f16s(1, 2))), 'scale-length')
  t.equal(swapped(scale(f16s())), 'scale-length')
  t.equal(swapped(zeroPoint(f16s(1, 2))), 'zero-point-length')
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, -1, -0]) {
    t.equal(swapped(scale(f16s(value))), 'scale-value', String(value))
  }
  for (const value of [Number.NaN, Number.NEGATIVE_INFINITY]) {
    t.equal(swapped(zeroPoint(f16s(value))), 'zero-point-value', String(value))
  }
  t.equal(swapped(zeroPoint(f16s(-0))), 'accepted')
  const wild = int4File(int4With(outlierVals(f16s(Number.NaN, Number.POSITIVE_INFINITY))))
  t.match(readDelta(wild).tensors, [{ nonFinite: 2, zero: false }])
})

t.test('an int4 delta is zero if its outliers and every nibble that occurs are', async t => {
  const zero = (...changes: Record[]): boolean => {
    let records: Record[] = [
      outlierIdx(),
      outlierVals(f16s(0, -0)),
      scale(f16s(1)),
      zeroPoint(f16s(0)),
      packed(new Uint8Array(4)),
    ]
    for (const other of changes) {
      records = records.map(one => (one.field === other.field ? other : one))
    }
    const found = [records, records.toReversed()].map(order => {
      const [tensor] = readDelta(int4File(order), 1).tensors
      return tensor!.zero
    })
    t.equal(found[0], found[1], 'in any order of the records')
    return found[0]!
  }
  t.equal(zero(), true)
  t.equal(zero(outlierVals(f16s(0, 1))), false)
  t.equal(zero(packed(Uint8Array.of(0, 0, 0, 0x10))), false)
  t.equal(zero(packed(Uint8Array.of(0, 1, 0, 0))), false)
  t.equal(zero(zeroPoint(f16s(1))), false)
  t.equal(zero(scale(f16s(0)), packed(Uint8Array.of(0x12, 0x34, 0x56, 0x70))), true)
  const five = packed(Uint8Array.of(0x55, 0x55, 0x55, 0x50))
  t.equal(zero(scale(f16s(0.25)), zeroPoint(f16s(-1.25)), five), true)
  t.equal(zero(scale(f16s(0.25)), zeroPoint(f16s(-1.25))), false)
})

t.test('ranks stand at every multiple of CELL', async t => {
  const count = 5 * CELL + 1
  const positions = [0, CELL - 1, CELL, 3 * CELL - 1, 4 * CELL + 7, 5 * CELL]
  const file = sparseFile([indices(i64s(...positions)), values(f32s(1, 2, 3, 4, 5, 6))], {
    shape: [count],
  })
  for (const step of [file.length, 13]) {
    const [tensor] = readDelta(file, step).tensors
    const expected = Array.from(
      { length: Math.ceil(count / CELL) + 1 },
      (_, i) => positions.filter(position => position < i * CELL).length,
    )
    t.strictSame((tensor as SparseTensor).ranks, expected)
  }
})

t.test('ranks are as many as what is kept, whatever number of elements is claimed', async t => {
  const shape = [2 ** 32, 2 ** 8]
  const cells = 2 ** 40 / CELL
  const positions = [0, 5, CELL, 2 ** 30, 2 ** 39 + 3, 2 ** 40 - 1]
  const six = f32s(1, 2, 3, 4, 5, 6)
  const files = {
    'nothing kept': [[], sparseFile([indices(i64s()), values(f32s())], { shape })],
    'six of 2^40': [positions, sparseFile([indices(i64s(...positions)), values(six)], { shape })],
    'the last one': [
      [2 ** 40 - 1],
      sparseFile([indices(i64s(2 ** 40 - 1)), values(f32s(1))], { shape }),
    ],
  } as const
  for (const [what, [kept, file]] of Object.entries(files)) {
    for (const step of [file.length, 13]) {
      const tensor = readDelta(file, step).tensors[0] as SparseTensor
      t.ok(tensor.ranks.length <= kept.length + 1, `${what}: ${tensor.ranks.length} ranks`)
      for (const cell of [0, 1, 2, 2 ** 14 - 1, 2 ** 14, 2 ** 14 + 1, 2 ** 23, cells - 1, cells]) {
        const before = kept.filter(position => position < cell * CELL).length
        t.equal(rankAt(tensor, cell), before, `${what}: before cell ${cell}`)
      }
      t.strictSame(JSON.parse(JSON.stringify(tensor)), tensor, 'it survives JSON')
    }
  }
})

t.test('ranks of an int4 tensor whose outliers stand together', async t => {
  const count = 100 * CELL
  const positions = [7, 50 * CELL + 1, 50 * CELL + 2]
  const file = int4File(
    [
      outlierIdx(i64s(...positions)),
      outlierVals(f16s(1, 2, 3)),
      scale(),
      zeroPoint(),
      packed(new Uint8Array(Math.ceil((count - 3) / 2))),
    ],
    { shape: [count], n_elements: count, n_outliers: 3 },
  )
  const tensor = readDelta(file, 65_537).tensors[0] as Int4Tensor
  t.strictSame(
    [tensor.cells, tensor.ranks],
    [
      [0, 50],
      [0, 1, 3],
    ],
  )
  for (let cell = 0; cell <= 100; cell++) {
    t.equal(rankAt(tensor, cell), positions.filter(position => position < cell * CELL).length)
  }
})
