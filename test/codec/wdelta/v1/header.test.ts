import { createHash } from 'node:crypto'
import t from 'tap'
import type { Steps } from '../../../../src/codec/base/steps.ts'
import type { RecordDeltaHeader } from '../../../../src/codec/wdelta/v1/format.ts'
import { RecordDeltaReader } from '../../../../src/codec/wdelta/v1/reader.ts'
import {
  deltaFile,
  join,
  PARENT,
  readDelta,
  sealed,
  u32,
} from '../../../support/models/wdelta-files.ts'
import {
  allEntries,
  allRecords,
  headerOf,
  indices,
  type Json,
  ruleOf,
  sparseEntry,
  sparseFile,
  sparseRecords,
  values,
} from './samples.ts'

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
