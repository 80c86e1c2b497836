import t from 'tap'
import type { Dtype } from '../../../../src/codec/base/dtypes.ts'
import { FRAME_BYTES, LIMITS } from '../../../../src/codec/base/limits.ts'
import { parseIndexSteps } from '../../../../src/codec/wdelta/v2/parse-index.ts'
import { writeIndex } from '../../../../src/codec/wdelta/v2/write-index.ts'
import { sealedV2 } from '../../../support/models/wdelta-v2-files.ts'
import { Random } from '../../../support/random.ts'
import { build, type Content, read, ruleOf, type Source } from './samples.ts'

t.test(
  '20,000 files with damaged indexes and sound checksums are read or refused by a rule',
  async t => {
    const file = build()
    const index = read(file)
    const records = [...index.records.starts].map((start, i) =>
      file.subarray(start, start + index.records.lengths[i]!),
    )
    const sound = writeIndex(index)
    t.equal(
      ruleOf(() => read(sealedV2(records, sound))),
      'sound',
    )
    const random = new Random(11)
    const rules = new Map<string, number>()
    for (let i = 0; i < 20_000; i++) {
      let bytes = Uint8Array.from(sound)
      for (let n = 0; n <= random.below(3); n++) {
        const at = random.below(bytes.length)
        if (i % 4 === 0) {
          const after = at + random.below(4)
          bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(after)])
        } else {
          const flipped = bytes[at]! ^ (1 << random.below(8))
          bytes[at] = i % 3 ? flipped : random.pick([0, 1, 127, 128, 255])
        }
        if (bytes.length === 0) break
      }
      const rule = ruleOf(() => read(sealedV2(records, bytes)))
      rules.set(rule, (rules.get(rule) ?? 0) + 1)
    }
    t.ok(rules.size > 12, JSON.stringify([...rules]))
  },
)

t.test('what an index may not say', async t => {
  const path =
    (name: string) =>
    (content: Content): Content => ({
      ...content,
      shards: content.shards.map(shard => ({ ...shard, path: name })),
    })
  const source =
    (of: string, change: Partial<Source>) =>
    (content: Content): Content => ({
      ...content,
      tensors: content.tensors.map(tensor =>
        tensor.name === of ? { ...tensor, source: { ...tensor.source!, ...change } } : tensor,
      ),
    })
  const frame =
    (column: 'encodings' | 'records', at: number, value: number) =>
    (content: Content): Content => {
      const frames = { ...content.frames, [column]: content.frames[column].slice() }
      frames[column][at] = value
      return { ...content, frames }
    }
  const cases: [string, (content: Content) => Content, string][] = [
    ['a path that leads out', path('../model.safetensors'), 'path'],
    ['a path of another kind', path('model.bin'), 'shard'],
    ['no shards', content => ({ ...content, shards: [] }), 'shard'],
    ['two shards of one path', c => ({ ...c, shards: [...c.shards, ...c.shards] }), 'shard'],
    ['a source of another inner dimension', source('a', { shape: [30, 21] }), 'source'],
    ['a source of another rank', source('a', { shape: [600] }), 'source'],
    ['a source that cannot be cast', source('a', { dtype: 'I16' }), 'source'],
    ['a source of an unknown dtype', source('a', { dtype: 'BF17' as Dtype }), 'source'],
    ['a source without a name', source('b.same', { name: '' }), 'name'],
    ['a source of 2^40 rows', source('a', { shape: [2 ** 40, 20] }), 'index'],
    ['an unknown encoding', frame('encodings', 0, 7), 'encoding'],
    ['a copy with a record', frame('encodings', 0, 0), 'frame'],
    ['a record that does not come', frame('records', 0, 99), 'frame'],
    ['a record out of turn', frame('records', 0, 1), 'frame'],
    ['a record left over', frame('records', 2, 0), 'frame'],
    ['fewer tensors', c => ({ ...c, tensors: c.tensors.slice(1) }), 'too-many-tensors'],
    [
      'more tensors',
      c => ({ ...c, tensors: [...c.tensors, { ...c.tensors[0]!, source: null }] }),
      'index',
    ],
    [
      'fewer frames',
      c => ({ ...c, frames: { ...c.frames, encodings: c.frames.encodings.slice(1) } }),
      'frame',
    ],
  ]
  for (const [what, spoil, rule] of cases) {
    t.equal(
      ruleOf(() => read(build(spoil))),
      rule,
      what,
    )
  }
})

/** An index of one record of one byte, and of whatever shards; `counts` are what it says of its tensors and frames. */
function indexOf(
  headers: readonly string[],
  counts: { tensors: number; frames: number; headerLength?: number },
): Uint8Array {
  const u16 = (value: number) => Buffer.from(Uint16Array.of(value).buffer)
  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
  const shards = headers.flatMap((json, i) => {
    const path = Buffer.from(`${i}.safetensors`)
    const length = u32(counts.headerLength ?? json.length)
    return [u16(path.length), path, length, Buffer.from(json), Buffer.alloc(32)]
  })
  const records = [u32(1), u32(1), Buffer.alloc(8)]
  const tensors = [u32(counts.tensors), Buffer.alloc(counts.tensors)]
  const columns = [Buffer.alloc(counts.frames, 1), Buffer.alloc(counts.frames * 12)]
  return Buffer.concat([
    Buffer.alloc(64),
    u32(headers.length),
    ...shards,
    ...records,
    ...tensors,
    u32(counts.frames),
    ...columns,
  ])
}

/** How a bare index is refused, and after how many steps. */
function refusal(index: Uint8Array, { maxBytes = 2 ** 40, stored = index.length } = {}) {
  const bounds = { size: 200, indexAt: 16 + 5 + 8, records: 1, maxBytes, stored }
  const steps = parseIndexSteps(index, bounds)
  let taken = 0
  const rule = ruleOf(() => {
    while (!steps.next().done) taken++
  })
  return { rule, taken }
}

const emptyTensors = (count: number, from = 0) =>
  `{${Array.from({ length: count }, (_, i) => `"${i + from}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`)}}`
const bigTensor = (name: string, frames: number) =>
  `{"${name}":{"dtype":"U8","shape":[${frames},${FRAME_BYTES}],"data_offsets":[0,${frames * FRAME_BYTES}]}}`

t.test('the numbers of an index are compared before anything is parsed for them', async t => {
  const many = emptyTensors(30_000)
  const one = bigTensor('w', 1000)
  const hundred = Array.from({ length: 100 }, (_, i) => emptyTensors(200, i * 200))
  const wide = ' '.repeat(LIMITS.headerBytes)
  const cases: [string, { rule: string; taken: number }, string, number][] = [
    [
      'more tensors in a header than are counted',
      refusal(indexOf([many], { tensors: 1, frames: 0 })),
      'too-many-tensors',
      5,
    ],
    [
      'more of them over all headers',
      refusal(indexOf(hundred, { tensors: 1000, frames: 0 })),
      'too-many-tensors',
      50,
    ],
    [
      'more than the stored bytes of an index can tell',
      refusal(indexOf([many], { tensors: 30_000, frames: 0 }), { stored: 5000 }),
      'too-many-tensors',
      0,
    ],
    [
      'more than a model may have',
      refusal(indexOf([many], { tensors: LIMITS.tensors + 1, frames: 0 })),
      'too-many-tensors',
      0,
    ],
    [
      'a header of 2^32 - 1 bytes',
      refusal(indexOf([one], { tensors: 1, frames: 0, headerLength: 2 ** 32 - 1 })),
      'shard',
      0,
    ],
    [
      'five headers of the largest size',
      refusal(indexOf([wide, wide, wide, wide, wide], { tensors: 1, frames: 0 })),
      'shard',
      0,
    ],
    [
      'a model larger than the most that is allowed',
      refusal(indexOf([one], { tensors: 1, frames: 1000 }), { maxBytes: 1000 * FRAME_BYTES }),
      'model-size',
      10,
    ],
    [
      'one that is so only together',
      refusal(indexOf([one, bigTensor('v', 1000)], { tensors: 2, frames: 2000 }), {
        maxBytes: 1001 * FRAME_BYTES,
      }),
      'model-size',
      20,
    ],
    [
      'more frames than any model has',
      refusal(indexOf([bigTensor('w', LIMITS.frames + 1)], { tensors: 1, frames: 0 }), {
        maxBytes: 2 ** 50,
      }),
      'too-many-frames',
      20,
    ],
    ['fewer frames', refusal(indexOf([one], { tensors: 1, frames: 999 })), 'frame', 20],
  ]
  for (const [what, { rule, taken }, expected, most] of cases) {
    t.equal(rule, expected, what)
    t.ok(taken <= most, `${what}: refused after ${taken} steps`)
  }
  const { rule, taken } = refusal(indexOf([many], { tensors: 30_000, frames: 0 }))
  t.equal(rule, 'record', 'no frame names the record')
  t.ok(taken > 100, `a long index is parsed in many steps: ${taken}`)
})
