import { createHash } from 'node:crypto'
import t, { type Test } from 'tap'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { CELL } from '../../../src/codec/base/limits.ts'
import type { Steps } from '../../../src/codec/base/steps.ts'
import {
  type Int4Tensor,
  rankAt,
  type SparseTensor,
} from '../../../src/codec/wdelta/delta-index.ts'
import type { RecordDeltaHeader } from '../../../src/codec/wdelta/v1/format.ts'
import {
  RecordDeltaReader,
  type RecordDeltaReaderOptions,
} from '../../../src/codec/wdelta/v1/reader.ts'
import {
  deltaFile,
  f16s,
  f32s,
  goldenDeltas,
  i64s,
  indexDelta,
  join,
  PARENT,
  type Record,
  readDelta,
  record,
  recordBytes,
  sealed,
  u32,
} from '../../support/wdelta-files.ts'

type Json = { [key: string]: unknown }

const ref = (...fields: string[]): Json =>
  Object.fromEntries(fields.map(field => [field, { _ref: field }]))

const sparseEntry = (changes: Json = {}): Json => ({
  strategy: 'sparse',
  shape: [2, 5],
  dtype: 'float32',
  sparsity: 0.7,
  ...ref('indices', 'values'),
  ...changes,
})

const quantizedEntry = (changes: Json = {}): Json => ({
  strategy: 'quantized',
  shape: [3, 5],
  dtype: 'float32',
  n_elements: 15,
  n_cols: 5,
  ...ref('scales', 'packed_signs'),
  ...changes,
})

const int4Entry = (changes: Json = {}): Json => ({
  strategy: 'int4',
  shape: [9],
  dtype: 'float32',
  outlier_fraction: 0.2,
  n_elements: 9,
  n_outliers: 2,
  ...ref('outlier_idx', 'outlier_vals', 'scale', 'zero_point', 'packed'),
  ...changes,
})

const indices = (data = i64s(0, 4, 9)): Record => record('s', 'indices', 'int64', 8, data)
const values = (data = f32s(1, -2, 3)): Record => record('s', 'values', 'float32', 4, data)
const scales = (data = f16s(0.5, 0, 1)): Record => record('q', 'scales', 'float16', 2, data)
const signs = (data = Uint8Array.of(0xa5, 0xfe)): Record =>
  record('q', 'packed_signs', 'uint8', 1, data)
const outlierIdx = (data = i64s(3, 8)): Record => record('i', 'outlier_idx', 'int64', 8, data)
const outlierVals = (data = f16s(7, -7)): Record => record('i', 'outlier_vals', 'float16', 2, data)
const scale = (data = f16s(0.25)): Record => record('i', 'scale', 'float16', 2, data)
const zeroPoint = (data = f16s(-0.5)): Record => record('i', 'zero_point', 'float16', 2, data)
const packed = (data = Uint8Array.of(0x01, 0x23, 0x45, 0x60)): Record =>
  record('i', 'packed', 'uint8', 1, data)

const headerOf = (tensors: Json, changes: Json = {}): Json => ({
  parent_hash: PARENT,
  strategy: 'int4',
  tensors,
  ...changes,
})
const allEntries = { s: sparseEntry(), q: quantizedEntry(), i: int4Entry() }
const sparseRecords = [indices(), values()]
const quantizedRecords = [scales(), signs()]
const int4Records = [outlierIdx(), outlierVals(), scale(), zeroPoint(), packed()]
const allRecords = [...sparseRecords, ...quantizedRecords, ...int4Records]

const sparseFile = (records: readonly (Record | Uint8Array)[], changes: Json = {}): Uint8Array =>
  deltaFile(headerOf({ s: sparseEntry(changes) }), records)
const quantizedFile = (records: readonly Record[], changes: Json = {}): Uint8Array =>
  deltaFile(headerOf({ q: quantizedEntry(changes) }), records)
const int4File = (records: readonly Record[], changes: Json = {}): Uint8Array =>
  deltaFile(headerOf({ i: int4Entry(changes) }), records)
/** int4's records with one put in the place of the one that has its field. */
const int4With = (other: Record): Record[] =>
  int4Records.map(one => (one.field === other.field ? other : one))

/** The rule by which a file is refused; the same whole, in single bytes and in pieces. */
function ruleOf(t: Test, file: Uint8Array, options?: RecordDeltaReaderOptions): string {
  const rules = [file.length, 1, 7].map(step => {
    try {
      readDelta(file, Math.max(step, 1), options)
      return 'accepted'
    } catch (error) {
      if (!(error instanceof CodecError) || error.kind !== 'delta') throw error
      return error.rule
    }
  })
  t.equal(new Set(rules).size, 1, `the same in pieces of any size: ${rules}`)
  return rules[0]!
}

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

t.test('the header is there before the arrays, once', async t => {
  const file = deltaFile(headerOf(allEntries), allRecords)
  const seen: RecordDeltaHeader[] = []
  const reader = new RecordDeltaReader(createHash('sha256'), {
    onHeader: header => seen.push(header),
  })
  const end = 15 + JSON.stringify(headerOf(allEntries)).length
  reader.push(file.subarray(0, end + 31))
  t.equal(reader.header, null)
  reader.push(file.subarray(end + 31, end + 32))
  t.match(reader.header, { parentHash: PARENT, strategy: 'int4' })
  t.strictSame(
    reader.header?.tensors.map(({ name }) => name),
    ['s', 'q', 'i'],
  )
  reader.push(file.subarray(end + 32))
  t.equal(reader.end(), reader.end())
  t.equal(seen.length, 1)
})

t.test('a long header is parsed in steps, and the rest is read after them', async t => {
  const entries = Object.fromEntries(
    Array.from({ length: 3000 }, (_, i) => [`t${i}`, sparseEntry()]),
  )
  const records = Object.keys(entries).flatMap(name => [
    { ...indices(), name },
    { ...values(), name },
  ])
  const file = deltaFile(headerOf(entries), records)
  const expected = readDelta(file)
  for (const step of [file.length, 4096]) {
    const reader = new RecordDeltaReader(createHash('sha256'))
    let steps = 0
    const run = <T>(work: Steps<T>): T => {
      for (;;) {
        const { done, value } = work.next()
        if (done) return value
        steps++
      }
    }
    for (let at = 0; at < file.length; at += step) {
      const left = reader.take(file.subarray(at, at + step))
      if (left) run(left)
    }
    t.ok(steps > 20, `the header takes ${steps} steps`)
    steps = 0
    t.strictSame(run(reader.finish()), expected)
    t.ok(steps >= 2, `the index takes ${steps} steps`)
  }
})

t.test('what onHeader throws ends the reading', async t => {
  const refusal = new Error('not for this parent')
  const reader = new RecordDeltaReader(createHash('sha256'), {
    onHeader: () => {
      throw refusal
    },
  })
  const file = sparseFile(sparseRecords)
  t.throws(() => reader.push(file), refusal)
  t.throws(() => reader.push(file), refusal)
  t.throws(() => reader.end(), refusal)
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

t.test('a header names a parent and a strategy, and has tensors', async t => {
  const rule = (header: unknown): string => ruleOf(t, deltaFile(header, sparseRecords))
  const entries = { s: sparseEntry() }
  const changed = (changes: Json): string => rule(headerOf(entries, changes))
  const without = (key: string): string => {
    const { [key]: _, ...rest } = headerOf(entries)
    return rule(rest)
  }
  t.equal(rule([1]), 'header-object')
  for (const value of ['deadbeef', PARENT.toUpperCase(), 7, null, `${PARENT}0`]) {
    t.equal(changed({ parent_hash: value }), 'parent-hash')
  }
  t.equal(without('parent_hash'), 'parent-hash')
  for (const value of [7, null, {}]) t.equal(changed({ strategy: value }), 'strategy')
  t.equal(without('strategy'), 'strategy')
  for (const value of ['lossless', 'INT4', '__proto__', '']) {
    t.equal(changed({ strategy: value }), 'strategy-unknown')
  }
  for (const value of [[], 's', null]) t.equal(changed({ tensors: value }), 'tensors')
  t.equal(without('tensors'), 'tensors')
  t.equal(changed({ tensors: {} }), 'no-tensors')
  t.equal(changed({ tensors: { s: [] } }), 'entry')
  t.equal(changed({ note: 'made on a Tuesday', run: 7, ok: true, none: null }), 'accepted')
  t.equal(changed({ note: 'x'.repeat(257) }), 'extra-key')
  t.equal(changed({ blob: { _ref: 'blob' } }), 'extra-key')
  t.equal(changed({ list: [1] }), 'extra-key')
})

t.test('a header that is no strict JSON is refused', async t => {
  const text = JSON.stringify(headerOf({ s: sparseEntry() }))
  const entry = JSON.stringify(sparseEntry())
  const broken: [string, string, string | Uint8Array][] = [
    ['bad UTF-8', 'json-utf8', join(text.slice(0, -2), ',"', Uint8Array.of(0xff), '":1}}')],
    ['a BOM', 'json-syntax', `\ufeff${text}`],
    ['not JSON', 'json-syntax', `${text.slice(0, -1)},`],
    ['NaN', 'json-syntax', text.replace('0.7', 'NaN')],
    ['Infinity', 'json-syntax', text.replace('0.7', 'Infinity')],
    ['a duplicate key', 'duplicate-key', text.replace('[2,5]', '[2,5],"shape":[2,5]')],
    ['a duplicate tensor', 'duplicate-key', text.replace('{"s":', `{"s":${entry},"s":`)],
    ['a depth bomb', 'json-depth', '['.repeat(100_000)],
    ['something after it', 'json-trailing', `${text}{}`],
    ['a lone surrogate', 'json-string', text.replace('"s":', '"\\ud800":')],
    ['an empty name', 'name', text.replace('"s":', '"":')],
    ['a name of the writer', 'name', text.replace('"s":', '"__metadata__":')],
    ['a control character', 'name', text.replace('"s":', '"\\u0007":')],
    ['a name too long', 'name', text.replace('"s":', `"${'x'.repeat(1025)}":`)],
  ]
  for (const [what, rule, json] of broken) {
    const bytes = join(json)
    t.equal(ruleOf(t, sealed('wdelta\0', u32(1), u32(bytes.length), bytes)), rule, what)
  }
  t.equal(ruleOf(t, deltaFile(`${text}   `, sparseRecords)), 'accepted', 'padded with spaces')
  const proto = text.replace('"s":', '"__proto__":')
  const renamed = sparseRecords.map(one => ({ ...one, name: '__proto__' }))
  t.match(readDelta(deltaFile(proto, renamed)).tensors, [{ name: '__proto__', kept: 3 }])
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

t.test('the metadata of a tensor has the types and ranges of its strategy', async t => {
  const rule = (changes: Json): string => ruleOf(t, sparseFile(sparseRecords, changes))
  const shapes = [
    [-1],
    [2.5],
    [true],
    ['2'],
    'x',
    null,
    10,
    [2 ** 53],
    [2 ** 32 + 1],
    [2 ** 30, 2 ** 11],
    [4194305, 4194305, 211106198978564],
    Array(17).fill(1),
  ]
  for (const shape of shapes) t.equal(rule({ shape }), 'shape', JSON.stringify(shape))
  t.equal(rule({ shape: undefined }), 'shape')
  for (const dtype of ['object', 'U50', 'float16', 'float64', 7, undefined]) {
    t.equal(rule({ dtype }), 'output-dtype', String(dtype))
  }
  for (const sparsity of [1, -0.1, 'x', null, undefined]) {
    t.equal(rule({ sparsity }), 'sparsity', String(sparsity))
  }
  t.equal(rule({ strategy: 'dense' }), 'strategy-unknown')
  t.equal(rule({ strategy: undefined }), 'strategy')
  for (const indices of [{ _ref: 'values' }, {}, null, 'indices', { _ref: 'indices', x: 1 }]) {
    t.equal(rule({ indices }), 'array-ref', JSON.stringify(indices))
  }
  t.equal(rule({ indices: undefined }), 'array-ref')
  t.equal(rule({ packed: { _ref: 'packed' } }), 'extra-key')
  t.equal(rule({ note: [1] }), 'extra-key')
  t.equal(rule({ note: 'x', seed: -1.5e3 }), 'accepted')
  t.equal(rule({ tuned_dtype: 'BF16' }), 'accepted')
  for (const tuned_dtype of ['bfloat16', 'bf16', 7, null, '__proto__']) {
    t.equal(rule({ tuned_dtype }), 'tuned-dtype', String(tuned_dtype))
  }
  const text = JSON.stringify(headerOf({ s: sparseEntry() }))
  t.equal(ruleOf(t, deltaFile(text.replace('0.7', '1e999'), sparseRecords)), 'json-number')
  for (const literal of ['[2.0,5]', '[2e0,5]']) {
    t.equal(ruleOf(t, deltaFile(text.replace('[2,5]', literal), sparseRecords)), 'shape', literal)
  }
})

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
