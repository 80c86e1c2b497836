import { createHash } from 'node:crypto'
import t from 'tap'
import type { Dtype } from '../../../src/codec/base/dtypes.ts'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { FRAME_BYTES, LIMITS } from '../../../src/codec/base/limits.ts'
import { ENCODINGS, encodeFrame } from '../../../src/codec/frames/frame-encodings.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import type { FrameDelta, FrameTensor } from '../../../src/codec/wdelta/delta-index.ts'
import { WdeltaReader } from '../../../src/codec/wdelta/reader.ts'
import {
  frameCount,
  NO_RECORD,
  prefixV2,
  sized,
  TAIL_BYTES,
  tailBytes,
} from '../../../src/codec/wdelta/v2/format.ts'
import { parseIndexSteps } from '../../../src/codec/wdelta/v2/parse-index.ts'
import { FrameDeltaReader, readIndex } from '../../../src/codec/wdelta/v2/reader.ts'
import { writeIndex } from '../../../src/codec/wdelta/v2/write-index.ts'
import { FrameDeltaWriter } from '../../../src/codec/wdelta/v2/writer.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'
import { Random } from '../../support/random.ts'

const { machine, compression } = threadKernels()
const hasher = () => {
  const hash = createHash('sha256')
  return { update: (bytes: Uint8Array) => void hash.update(bytes), digest: () => hash.digest() }
}

type Source = NonNullable<FrameTensor['source']>
interface Sample {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly source?: Source
}

const SAMPLES: Sample[] = [
  {
    name: 'a',
    dtype: 'BF16',
    shape: [40, 20],
    source: { name: 'a', dtype: 'BF16', shape: [30, 20] },
  },
  { name: 'b.same', dtype: 'F32', shape: [16], source: { name: 'b', dtype: 'BF16', shape: [16] } },
  { name: 'c', dtype: 'U8', shape: [7] },
  { name: 'empty', dtype: 'I64', shape: [0, 3] },
  { name: 'tied', dtype: 'U8', shape: [7] },
]

type Content = Parameters<FrameDeltaWriter['end']>[0]

/** A small delta; `spoil` changes what its index says. */
function build(spoil: (content: Content) => Content = content => content): Uint8Array {
  const random = new Random(3)
  const layout = buildLayout([...SAMPLES], new Map([['format', 'pt']]))
  const writer = new FrameDeltaWriter(threadKernels(), hasher())
  const parts = [writer.begin()]
  const frames = { encodings: [] as number[], records: [] as number[], checksums: [] as bigint[] }
  const known = new Map<string, number>()
  let firstFrame = 0
  const tensors = layout.tensors.map(placed => {
    const tensor = sized(placed)
    const bytes = Uint8Array.from({ length: tensor.bytes }, (_, i) => (i * 7) % 256)
    const prediction =
      tensor.dtype === 'BF16' ? bytes.map((byte, i) => byte ^ (i % 2 ? 0 : random.below(3))) : null
    if (tensor.bytes > 0) {
      const { encoding, stored } = encodeFrame(threadKernels(), tensor.dtype, bytes, prediction)
      const content = Buffer.from(stored).toString('hex')
      const record = encoding === 'copy' ? NO_RECORD : (known.get(content) ?? writer.records)
      if (record === writer.records) {
        parts.push(...writer.record(stored, machine.checksum(stored)))
        known.set(content, record)
      }
      frames.encodings.push(ENCODINGS.indexOf(encoding))
      frames.records.push(record)
      frames.checksums.push(machine.checksum(bytes))
    }
    const source = SAMPLES.find(({ name }) => name === tensor.name)!.source ?? null
    firstFrame += frameCount(tensor.bytes)
    return { ...tensor, source, firstFrame: firstFrame - frameCount(tensor.bytes) }
  })
  parts.push(
    ...writer.end(
      spoil({
        parentHash: '1'.repeat(64),
        parentIdentity: '2'.repeat(64),
        shards: [{ path: 'model.safetensors', layout, sha256: '3'.repeat(64) }],
        tensors,
        frames: {
          encodings: Uint8Array.from(frames.encodings),
          records: Uint32Array.from(frames.records),
          checksums: BigUint64Array.from(frames.checksums),
        },
      }),
    ),
  )
  return Buffer.concat(parts)
}

function read(file: Uint8Array, step = file.length): FrameDelta {
  const reader = new FrameDeltaReader(threadKernels(), hasher())
  for (let at = 0; at < file.length; at += step) reader.push(file.subarray(at, at + step))
  return reader.end()
}

const readEnd = (file: Uint8Array) =>
  readIndex(async (start, end) => file.subarray(start, end), file.length, threadKernels())

/** The rule that refuses, `sound` for none; anything but a CodecError is thrown on. */
function ruleOf(work: () => unknown): string {
  try {
    work()
    return 'sound'
  } catch (error) {
    if (error instanceof CodecError) return error.rule
    throw error
  }
}

async function endRuleOf(file: Uint8Array): Promise<string> {
  try {
    await readEnd(file)
    return 'sound'
  } catch (error) {
    if (error instanceof CodecError) return error.rule
    throw error
  }
}

t.test(
  'a file read in pieces of any size, or by its end, gives the index that was written',
  async t => {
    const file = build()
    const index = read(file)
    for (const step of [1, 7, 1000]) t.strictSame(read(file, step), index)
    t.strictSame(await readEnd(file), index)
    const either = new WdeltaReader(threadKernels(), hasher())
    for (const byte of file) either.push(Uint8Array.of(byte))
    t.strictSame(either.end(), index)
    t.equal(index.format, 2)
    t.equal(index.parentIdentity, '2'.repeat(64))
    t.strictSame(
      index.tensors.map(({ name }) => name).sort(),
      SAMPLES.map(({ name }) => name),
    )
    const [c, tied] = ['c', 'tied'].map(name => index.tensors.find(tensor => tensor.name === name)!)
    const recordOf = (tensor: FrameTensor) => index.frames.records[tensor.firstFrame]
    t.equal(recordOf(c!), recordOf(tied!), 'equal bytes are stored once')
    for (const [i, start] of index.records.starts.entries()) {
      const record = file.subarray(start, start + index.records.lengths[i]!)
      t.equal(machine.checksum(record), index.records.checksums[i])
    }
  },
)

t.test('a file cut at any byte, and one with any byte flipped, is refused', async t => {
  const file = build()
  for (let at = 0; at < file.length; at++) {
    const cut = file.subarray(0, at)
    if (ruleOf(() => read(cut)) === 'sound') t.fail(`cut at ${at}`)
    if ((await endRuleOf(cut)) === 'sound') t.fail(`cut at ${at}, read by its end`)
    for (const bit of [0, 3, 7]) {
      const flipped = Uint8Array.from(file)
      flipped[at]! ^= 1 << bit
      if (ruleOf(() => read(flipped)) === 'sound') t.fail(`byte ${at} flipped`)
    }
  }
  t.equal(
    ruleOf(() => read(Buffer.concat([file, Buffer.alloc(1)]))),
    'stray-bytes',
  )
  t.equal(
    ruleOf(() => read(file)),
    'sound',
  )
})

/** A file whose checksums are right, whatever the index says. */
function sealed(records: Uint8Array[], index: Uint8Array, inflated = index.length): Uint8Array {
  const word = (value: number) => {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, value, true)
    return bytes
  }
  const body = records.flatMap(record => [word(record.length), record])
  const stored = compression.compress(index, 3)
  const head = Buffer.concat([prefixV2(), ...body, word(0), word(stored.length)])
  const checksum = machine.checksum(stored)
  const tail = tailBytes({ offset: head.length, stored: stored.length, inflated, checksum })
  const payload = Buffer.concat([head, stored, tail])
  return Buffer.concat([payload, createHash('sha256').update(payload).digest()])
}

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
      ruleOf(() => read(sealed(records, sound))),
      'sound',
    )
    const random = new Random(11)
    const rules = new Map<string, number>()
    for (let i = 0; i < 20_000; i++) {
      let bytes = Uint8Array.from(sound)
      for (let n = 0; n <= random.below(3); n++) {
        const at = random.below(bytes.length)
        if (i % 4 === 0)
          bytes = Uint8Array.from([
            ...bytes.subarray(0, at),
            ...bytes.subarray(at + random.below(4)),
          ])
        else
          bytes[at] =
            i % 3 ? bytes[at]! ^ (1 << random.below(8)) : random.pick([0, 1, 127, 128, 255])
        if (bytes.length === 0) break
      }
      const rule = ruleOf(() => read(sealed(records, bytes)))
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

t.test('bombs and huge counts are refused before anything is allocated for them', async t => {
  const zeros = compression.compress(new Uint8Array(64 * 1024 * 1024), 19)
  t.ok(zeros.length < 10_000)
  const bomb = sealed([], new Uint8Array(64 * 1024 * 1024))
  t.equal(
    ruleOf(() => read(bomb)),
    'index-size',
  )
  t.equal(await endRuleOf(bomb), 'index-size')
  // A tail that says less than the frame holds.
  t.equal(
    ruleOf(() => read(sealed([], new Uint8Array(100_000), 50_000))),
    'zstd',
  )
  const counts = new Uint8Array(100)
  counts.fill(255, 64)
  t.equal(
    ruleOf(() => read(sealed([], counts))),
    'shard',
  )
  const index = Buffer.from(writeIndex(read(build())))
  const records = 64 + 4 + 2 + 17 + 4 + index.readUInt32LE(64 + 4 + 2 + 17) + 32
  index.writeUInt32LE(0xffffffff, records)
  t.equal(
    ruleOf(() => read(sealed([], index))),
    'index',
  )
  index.writeUInt32LE(0xffffffff, records + 4)
  t.equal(
    ruleOf(() => read(sealed([], index))),
    'index',
  )
  const long = Buffer.concat([prefixV2(), Buffer.from([0, 0, 0, 0x7f])])
  t.equal(
    ruleOf(() => read(long)),
    'record',
  )
  t.ok(TAIL_BYTES < FRAME_BYTES)
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

t.test('records are those that came', async t => {
  const index = read(build())
  const records = [...index.records.starts].map(
    (start, i) => new Uint8Array(build().subarray(start, start + index.records.lengths[i]!)),
  )
  const sound = writeIndex(index)
  t.equal(
    ruleOf(() => read(sealed(records.slice(1), sound))),
    'record',
  )
  t.equal(
    ruleOf(() => read(sealed([...records, Uint8Array.of(1)], sound))),
    'record',
  )
  const other = records.with(
    0,
    records[0]!.map(byte => byte ^ 1),
  )
  t.equal(
    ruleOf(() => read(sealed(other, sound))),
    'record-checksum',
  )
  t.match(await endRuleOf(sealed(records.slice(1), sound)), 'record', 'also from the end alone')
})

t.test('an index outlives the memory that its file came in', async t => {
  const file = Buffer.from(build())
  const expected = read(file)
  const reader = new FrameDeltaReader(threadKernels(), hasher())
  const chunk = Buffer.alloc(file.length)
  file.copy(chunk)
  reader.push(chunk)
  chunk.fill(0)
  t.strictSame(reader.end(), expected)
})
