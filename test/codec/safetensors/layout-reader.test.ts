import t from 'tap'
import { DTYPE_BITS } from '../../../src/codec/base/dtypes.ts'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { parseLayout } from '../../../src/codec/safetensors/header.ts'
import type { Layout } from '../../../src/codec/safetensors/layout.ts'
import { LayoutReader } from '../../../src/codec/safetensors/layout-reader.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import {
  changedSafetensors,
  readLayout as read,
  readPieces,
  safetensorsFile,
} from '../../support/models/safetensors-samples.ts'
import { Random } from '../../support/random.ts'

const { MUTATIONS = '10000' } = process.env
const entry = (dtype: string, shape: number[], offsets: number[]) => ({
  dtype,
  shape,
  data_offsets: offsets,
})

t.test('every prefix of a file is refused', async t => {
  const json = {
    __metadata__: { a: 'b' },
    w: entry('F16', [3], [0, 6]),
    x: entry('U8', [], [6, 7]),
  }
  const file = safetensorsFile(json, 7)
  t.ok(read(file))
  for (let length = 0; length < file.length; length++) {
    if (!(readPieces(file.subarray(0, length), 5) instanceof CodecError)) t.fail(`${length} bytes`)
    try {
      read(file.subarray(0, length))
      t.fail(`${length} bytes`)
    } catch (error) {
      if (!(error instanceof CodecError)) throw error
    }
  }
})

t.test('a stream: the fault is thrown by the push that shows it', async t => {
  const file = safetensorsFile({ w: entry('I32', [2], [0, 8]) }, 8)
  const start = file.length - 8
  const reader = new LayoutReader()
  reader.push(file.subarray(0, start - 1))
  t.equal(reader.layout, null)
  reader.push(file.subarray(start - 1, start))
  t.match(reader.layout, { size: file.length })
  reader.push(file.subarray(start))
  t.equal(reader.end(), reader.layout)
  t.throws(() => reader.push(Uint8Array.of(0)), { name: 'CodecError', rule: 'file-size' })

  const tooLong = new LayoutReader()
  const word = Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0)
  tooLong.push(word.subarray(0, 7))
  t.throws(() => tooLong.push(word.subarray(7)), { name: 'CodecError', rule: 'header-too-large' })

  const short = new LayoutReader()
  short.push(file.subarray(0, start + 3))
  t.throws(() => short.end(), { name: 'CodecError', rule: 'file-size', offset: start + 3 })

  const wrong = safetensorsFile({ w: entry('I32', [2], [0, 9]) }, 9)
  const early = new LayoutReader()
  t.throws(() => early.push(wrong.subarray(0, wrong.length - 9)), {
    name: 'CodecError',
    rule: 'size',
  })
})

t.test('a stream: the header is not the chunk, which its owner may use again', async t => {
  const file = safetensorsFile({ w: entry('I32', [2], [0, 8]) }, 8)
  const chunk = file.slice()
  const reader = new LayoutReader()
  reader.push(chunk)
  chunk.fill(0)
  t.strictSame(reader.end().header, file.subarray(0, file.length - 8))
  t.equal(reader.end().header.buffer.byteLength, file.length - 8, 'and holds no more than itself')
})

/** A layout covers its file: contiguous, in its shapes, and rebuilt from it the same tensors come back. */
function assertSound(layout: Layout, file: Uint8Array): void {
  let next = layout.header.length
  for (const { dtype, shape, begin, end } of layout.tensors) {
    const bytes = (shape.reduce((n, dimension) => n * dimension, 1) * DTYPE_BITS[dtype]) / 8
    if (begin !== next || end - begin !== bytes) throw new Error(`${begin} to ${end}`)
    next = end
  }
  if (next !== file.length || layout.size !== next) throw new Error(`${next} of ${file.length}`)
  const again = buildLayout(layout.tensors, layout.metadata)
  const reparsed = parseLayout(again.header, again.size)
  const plain = (tensors: Layout['tensors']) =>
    JSON.stringify(tensors.map(({ name, dtype, shape }) => [name, dtype, shape]).sort())
  if (plain(reparsed.tensors) !== plain(layout.tensors)) throw new Error('other tensors')
}

t.test('changed files: a typed error or a sound layout', async t => {
  const random = new Random(20_240_502)
  const rules = new Map<string, number>()
  for (let i = 0; i < Number(MUTATIONS); i++) {
    const file = changedSafetensors(random)
    let rule = 'accepted'
    try {
      assertSound(read(file), file)
    } catch (error) {
      if (!(error instanceof CodecError)) throw error
      rule = error.rule
    }
    rules.set(rule, (rules.get(rule) ?? 0) + 1)
  }
  t.ok(rules.get('accepted')! > Number(MUTATIONS) / 100, JSON.stringify([...rules]))
  t.ok(rules.size > 15, `${rules.size} rules`)
})
