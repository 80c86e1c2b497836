import t from 'tap'
import { FRAME_BYTES } from '../../../../src/codec/base/limits.ts'
import type { FrameTensor } from '../../../../src/codec/wdelta/delta-index.ts'
import { WdeltaReader } from '../../../../src/codec/wdelta/reader.ts'
import { prefixV2, TAIL_BYTES } from '../../../../src/codec/wdelta/v2/format.ts'
import { FrameDeltaReader } from '../../../../src/codec/wdelta/v2/reader.ts'
import { writeIndex } from '../../../../src/codec/wdelta/v2/write-index.ts'
import { threadKernels } from '../../../../src/workers/kernels.ts'
import { sealedV2 } from '../../../support/models/wdelta-v2-files.ts'
import { build, endRuleOf, hasher, read, readEnd, ruleOf, SAMPLES } from './samples.ts'

const { machine, compression } = threadKernels()

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

t.test('bombs and huge counts are refused before anything is allocated for them', async t => {
  const zeros = compression.compress(new Uint8Array(64 * 1024 * 1024), 19)
  t.ok(zeros.length < 10_000)
  const bomb = sealedV2([], new Uint8Array(64 * 1024 * 1024))
  t.equal(
    ruleOf(() => read(bomb)),
    'index-size',
  )
  t.equal(await endRuleOf(bomb), 'index-size')
  // A tail that says less than the frame holds.
  t.equal(
    ruleOf(() => read(sealedV2([], new Uint8Array(100_000), { inflated: 50_000 }))),
    'zstd',
  )
  const counts = new Uint8Array(100)
  counts.fill(255, 64)
  t.equal(
    ruleOf(() => read(sealedV2([], counts))),
    'shard',
  )
  const index = Buffer.from(writeIndex(read(build())))
  const records = 64 + 4 + 2 + 17 + 4 + index.readUInt32LE(64 + 4 + 2 + 17) + 32
  index.writeUInt32LE(0xffffffff, records)
  t.equal(
    ruleOf(() => read(sealedV2([], index))),
    'index',
  )
  index.writeUInt32LE(0xffffffff, records + 4)
  t.equal(
    ruleOf(() => read(sealedV2([], index))),
    'index',
  )
  const long = Buffer.concat([prefixV2(), Buffer.from([0, 0, 0, 0x7f])])
  t.equal(
    ruleOf(() => read(long)),
    'record',
  )
  t.ok(TAIL_BYTES < FRAME_BYTES)
})

t.test('records are those that came', async t => {
  const index = read(build())
  const records = [...index.records.starts].map(
    (start, i) => new Uint8Array(build().subarray(start, start + index.records.lengths[i]!)),
  )
  const sound = writeIndex(index)
  t.equal(
    ruleOf(() => read(sealedV2(records.slice(1), sound))),
    'record',
  )
  t.equal(
    ruleOf(() => read(sealedV2([...records, Uint8Array.of(1)], sound))),
    'record',
  )
  const other = records.with(
    0,
    records[0]!.map(byte => byte ^ 1),
  )
  t.equal(
    ruleOf(() => read(sealedV2(other, sound))),
    'record-checksum',
  )
  t.match(await endRuleOf(sealedV2(records.slice(1), sound)), 'record', 'also from the end alone')
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
