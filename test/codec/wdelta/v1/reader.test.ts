import { createHash } from 'node:crypto'
import t from 'tap'
import type { CodecError } from '../../../../src/codec/base/errors.ts'
import type { Int4Tensor, SparseTensor } from '../../../../src/codec/wdelta/delta-index.ts'
import { RecordDeltaReader } from '../../../../src/codec/wdelta/v1/reader.ts'
import {
  deltaFile,
  f32s,
  goldenDeltas,
  i64s,
  indexDelta,
  join,
  type Record,
  readDelta,
  recordBytes,
  sealed,
  u32,
} from '../../../support/models/wdelta-files.ts'
import {
  allEntries,
  allRecords,
  headerOf,
  indices,
  int4Entry,
  int4File,
  int4Records,
  quantizedFile,
  ruleOf,
  sparseEntry,
  sparseFile,
  sparseRecords,
  values,
} from './samples.ts'

t.test('golden files: the same index from pieces of any size', async t => {
  for (const [path, file] of goldenDeltas()) {
    const index = indexDelta(file, createHash('sha256'))
    t.equal(index.size, file.length, path)
    t.strictSame(JSON.parse(JSON.stringify(index)), index, `${path} survives JSON`)
    for (const step of [1, 3, 1000]) t.strictSame(readDelta(file, step), index, `${path}: ${step}`)
  }
})

t.test('the index says what each tensor is, and where its arrays lie', async t => {
  const file = deltaFile(headerOf(allEntries), allRecords)
  const [s, q, i] = readDelta(file).tensors
  t.match(s, {
    name: 's',
    strategy: 'sparse',
    shape: [2, 5],
    count: 10,
    sparsity: 0.7,
    kept: 3,
    ranks: [0, 3],
    zero: false,
    nonFinite: 0,
    tunedDtype: null,
  })
  t.match(q, { name: 'q', strategy: 'quantized', columns: 5, zero: false, nonFinite: 0 })
  t.match(i, {
    name: 'i',
    strategy: 'int4',
    outlierFraction: 0.2,
    outliers: 2,
    scale: 0.25,
    zeroPoint: -0.5,
    ranks: [0, 2],
    zero: false,
  })
  const { outlierIdx: range } = i as Int4Tensor
  t.strictSame(file.slice(range.start, range.end), i64s(3, 8))
  const { values: floats } = s as SparseTensor
  t.strictSame(file.slice(floats.start, floats.end), f32s(1, -2, 3))
})

t.test('a file that is cut, longer, or of another kind is refused', async t => {
  const good = sparseFile(sparseRecords)
  const payload = good.subarray(0, -32)
  const json = JSON.stringify(headerOf({ s: sparseEntry() }))
  const head = (length: number): Uint8Array => join('wdelta\0', u32(1), u32(length))
  const cases: [string, string, Uint8Array][] = [
    ['no bytes', 'too-short', new Uint8Array(0)],
    ['sha256 of nothing', 'too-short', sealed()],
    ['46 bytes', 'too-short', good.subarray(0, 46)],
    ['a flipped trailer', 'checksum', join(payload, new Uint8Array(32))],
    ['cut in an array', 'truncated', good.subarray(0, -40)],
    ['cut in the header', 'truncated', good.subarray(0, 100)],
    ['appended', 'string-length', join(good, new Uint8Array(400))],
    ['magic', 'magic', sealed('wdelta1', payload.subarray(7))],
    ['version 0', 'version', sealed('wdelta\0', u32(0), payload.subarray(11))],
    ['version 2', 'version', sealed('wdelta\0', u32(2), payload.subarray(11))],
    ['version 2^32-1', 'version', sealed('wdelta\0', u32(2 ** 32 - 1), payload.subarray(11))],
    ['no header', 'header-length', sealed(head(0), json)],
    ['header over the limit', 'header-length', sealed(head(2 ** 32 - 1), json)],
    ['header into the trailer', 'overrun', sealed(head(json.length + 1), json)],
    ['1 stray byte', 'stray-bytes', sealed(payload, 'x')],
    ['3 stray bytes', 'stray-bytes', sealed(payload, 'xyz')],
    ['half a record', 'overrun', sealed(payload, recordBytes(indices()).subarray(0, 5))],
    ['arrays that stop early', 'overrun', sealed(payload.subarray(0, -1))],
  ]
  for (const [what, rule, file] of cases) t.equal(ruleOf(t, file), rule, what)
  t.equal(ruleOf(t, good), 'accepted')
})

t.test('a file size that is known refuses earlier', async t => {
  const good = sparseFile(sparseRecords)
  const size = good.length
  t.equal(ruleOf(t, good, { fileSize: size }), 'accepted')
  t.equal(ruleOf(t, good, { fileSize: size - 1 }), 'overrun')
  t.equal(ruleOf(t, join(good, 'x'), { fileSize: size }), 'file-size')
  const early = (bytes: Uint8Array, fileSize: number): void => {
    new RecordDeltaReader(createHash('sha256'), { fileSize }).push(bytes)
  }
  const { length } = JSON.stringify(headerOf({ i: int4Entry() }))
  const start = int4File([]).subarray(0, 15 + length + 32)
  const least = int4File(int4Records).length
  t.doesNotThrow(() => early(start, least))
  t.throws(() => early(start, least - 1), { name: 'CodecError', rule: 'file-size' })
  t.throws(() => early(start, 100), { name: 'CodecError', rule: 'header-length' })
})

t.test('every array stands once, under its tensor and field', async t => {
  const rule = (...records: (Record | Uint8Array)[]): string => ruleOf(t, sparseFile(records))
  const long = { ...indices(), name: 'x'.repeat(1025) }
  t.equal(rule(long, values()), 'string-length')
  t.equal(rule({ ...indices(), field: 'x'.repeat(65) }, values()), 'string-length')
  t.equal(rule({ ...indices(), dtype: 'x'.repeat(17) }, values()), 'string-length')
  t.equal(rule(u32(2 ** 32 - 1)), 'string-length')
  t.equal(rule({ ...indices(), name: Uint8Array.of(0xc3, 0x28) }, values()), 'string-utf8')
  t.equal(rule({ ...indices(), name: 't' }, values()), 'array-tensor')
  t.equal(rule({ ...indices(), name: '' }, values()), 'array-tensor')
  t.equal(rule({ ...indices(), name: '\ufeffs' }, values()), 'array-tensor')
  t.equal(rule(indices(), values(), { ...values(), name: 'hidden' }), 'array-tensor')
  t.equal(rule(indices(), values(), { ...values(), field: 'packed' }), 'array-field')
  t.equal(rule({ ...indices(), field: '' }, values()), 'array-field')
  t.equal(rule(indices(), values(), values()), 'array-duplicate')
  t.equal(rule(indices(), indices(), values()), 'array-duplicate')
  t.equal(rule(indices()), 'array-missing')
  t.equal(rule(values()), 'array-missing')
  t.equal(rule(), 'array-missing')
  for (const dtype of ['>i8', '<i8', 'int32', 'uint64', 'bool', 'f4,f4', 'V16', 'O', '']) {
    t.equal(rule({ ...indices(), dtype }, values()), 'array-dtype', dtype)
  }
  t.equal(rule({ ...indices(), dims: [] }, values()), 'array-rank')
  t.equal(rule({ ...indices(), dims: [3, 1] }, values()), 'array-rank')
  const bomb = recordBytes({ ...indices(), dims: [] })
  bomb.set(u32(2 ** 32 - 1), bomb.length - 24 - 8 - 4)
  t.equal(rule(bomb), 'array-rank')
})

t.test('an array is as long as its dimensions say', async t => {
  const rule = (changes: Partial<Record>): string =>
    ruleOf(t, sparseFile([{ ...indices(), ...changes }, values()]))
  t.equal(rule({ dims: [2n ** 64n - 1n] }), 'data-length')
  t.equal(rule({ dims: [2n ** 61n], length: 0 }), 'data-length')
  t.equal(rule({ dims: [2n ** 60n], length: 2n ** 63n }), 'data-length')
  t.equal(rule({ length: 2n ** 64n - 1n }), 'data-length')
  t.equal(rule({ length: 23 }), 'data-length')
  t.equal(rule({ dims: [2] }), 'data-length')
  t.equal(rule({ dims: [11], data: new Uint8Array(88) }), 'too-many-indices')
  const huge = sparseFile([{ ...indices(), dims: [2 ** 39], length: 2 ** 42 }], {
    shape: [2 ** 20, 2 ** 20],
  })
  t.equal(ruleOf(t, huge), 'overrun')
})

t.test('records in any order; tensors in the order of their first record', async t => {
  const header = headerOf(allEntries)
  const orders = [
    allRecords.toReversed(),
    allRecords.map((_, i) => allRecords[(i * 4) % allRecords.length]!),
  ]
  const expected = readDelta(deltaFile(header, allRecords))
  for (const records of orders) {
    const index = readDelta(deltaFile(header, records), 5)
    t.strictSame(
      index.tensors.map(({ name }) => name),
      [...new Set(records.map(({ name }) => name))],
    )
    for (const tensor of index.tensors) {
      const other = expected.tensors.find(({ name }) => name === tensor.name)!
      const { zero, nonFinite, count } = tensor
      t.match(other, { zero, nonFinite, count })
    }
  }
})

t.test('large arrays are read at any alignment', async t => {
  const kept = 50_000
  const positions = Array.from({ length: kept }, (_, i) => i * 11 + (i % 3))
  const floats = Float32Array.from(positions, (_, i) => (i % 1000 === 0 ? Number.NaN : i))
  const file = sparseFile([indices(i64s(...positions)), values(new Uint8Array(floats.buffer))], {
    shape: [kept * 11],
  })
  const expected = readDelta(file)
  t.match(expected.tensors, [{ kept, nonFinite: 50 }])
  for (const lead of [1, 2, 3, 4]) {
    const shifted = join(new Uint8Array(lead), file).subarray(lead)
    for (const step of [100_003, 65_536, 4096]) t.strictSame(readDelta(shifted, step), expected)
  }
})

t.test('what a header claims allocates nothing before its bytes come', async t => {
  const before = process.memoryUsage()
  const count = 2 ** 40
  const shape = [2 ** 20, 2 ** 20]
  const claims = [
    sparseFile([indices(i64s(2 ** 40 - 1)), values(f32s(1))], { shape }).subarray(0, -1),
    sparseFile([indices(i64s(0)), values(f32s(1))], { shape }).subarray(0, -60),
    int4File([], { shape, n_elements: count, n_outliers: count / 2 }),
    quantizedFile([], { shape, n_elements: count, n_cols: 2 ** 20 }),
    sealed('wdelta\0', u32(1), u32(25_000_000), '{'),
  ]
  for (const file of claims) t.not(ruleOf(t, file), 'accepted')
  const after = process.memoryUsage()
  t.ok(after.arrayBuffers - before.arrayBuffers < 2 ** 22, 'array buffers')
  t.ok(after.heapUsed - before.heapUsed < 2 ** 25, 'heap')
  const two = deltaFile(headerOf({ a: sparseEntry({ shape }), b: sparseEntry() }), [])
  t.equal(ruleOf(t, two), 'too-many-elements')
  t.equal(ruleOf(t, sparseFile(sparseRecords), { maxElements: 9 }), 'too-many-elements')
  t.equal(ruleOf(t, sparseFile(sparseRecords), { maxElements: 10 }), 'accepted')
})

t.test('messages say what was expected, what came and where', async t => {
  const file = sparseFile([indices(i64s(0, 4, 12)), values()])
  try {
    readDelta(file)
    t.fail('accepted')
  } catch (error) {
    const { message, offset } = error as CodecError
    t.match(message, /tensor "s", array indices: .*12.*10/)
    t.strictSame(file.slice(offset!, offset! + 8), i64s(12))
  }
})
