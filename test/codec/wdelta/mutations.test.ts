import t from 'tap'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { CELL } from '../../../src/codec/base/limits.ts'
import type { RecordDelta, RecordTensor } from '../../../src/codec/wdelta/delta-index.ts'
import { goldenDeltas, join, readDelta, sealed } from '../../support/models/wdelta-files.ts'
import { mutate, seedFiles, smallDelta } from '../../support/models/wdelta-samples.ts'
import { Random } from '../../support/random.ts'

const { MUTATIONS = '10000' } = process.env
const COUNT = Number(MUTATIONS)

/** The index, or the rule of its refusal. Any other exception is a fault. */
function outcome(file: Uint8Array, step = Math.max(file.length, 1)): RecordDelta | string {
  try {
    return readDelta(file, step)
  } catch (error) {
    if (error instanceof CodecError && error.kind === 'delta') return error.rule
    throw error
  }
}

function rangesOf(tensor: RecordTensor): { start: number; end: number }[] {
  switch (tensor.strategy) {
    case 'int4':
      return [tensor.outlierIdx, tensor.outlierVals, tensor.packed]
    case 'sparse':
      return [tensor.indices, tensor.values]
    case 'quantized':
      return [tensor.scales, tensor.packedSigns]
  }
}

function assertSound({ size, tensors }: RecordDelta, file: Uint8Array): void {
  const problems = tensors.filter(tensor => {
    const within = rangesOf(tensor).every(({ start, end }) => start <= end && end <= size - 32)
    if (tensor.strategy === 'quantized') return !within
    const { ranks, cells, count } = tensor
    const rising = ranks.every((rank, i) => rank >= (ranks[i - 1] ?? 0))
    return !within || !rising || ranks.length !== (cells?.length ?? Math.ceil(count / CELL)) + 1
  })
  if (size !== file.length || problems.length > 0) throw new Error(JSON.stringify(problems))
}

t.test('every prefix of a file is refused', async t => {
  const file = smallDelta()
  t.type(outcome(file), 'object')
  const rules = new Set<string>()
  for (let length = 0; length < file.length; length++) {
    for (const step of [length || 1, 5]) {
      const found = outcome(file.subarray(0, length), step)
      if (typeof found !== 'string') throw new Error(`${length} bytes were accepted`)
      rules.add(found)
    }
  }
  t.strictSame([...rules].sort(), ['checksum', 'too-short', 'truncated'])
})

t.test('every flipped bit of a file is refused', async t => {
  for (const file of [smallDelta(), ...[...goldenDeltas().values()].slice(0, 1)]) {
    const bits = file.length < 4096 ? [0, 1, 2, 3, 4, 5, 6, 7] : [0]
    for (let at = 0; at < file.length; at++) {
      for (const bit of bits) {
        const changed = file.slice()
        changed[at]! ^= 1 << bit
        if (typeof outcome(changed) !== 'string') throw new Error(`bit ${bit} of byte ${at}`)
      }
    }
  }
  t.pass()
})

t.test('changed files with a right checksum: a typed error or a sound index', async t => {
  const files = seedFiles()
  const random = new Random(20_240_501)
  const rules = new Map<string, number>()
  for (let i = 0; i < COUNT; i++) {
    const file = sealed(mutate(files[i % files.length]!.subarray(0, -32), random))
    const found = outcome(file)
    const pieces = outcome(file, 1 + random.below(64))
    if (JSON.stringify(found) !== JSON.stringify(pieces)) {
      throw new Error(`change ${i} reads otherwise in pieces`)
    }
    if (typeof found !== 'string') assertSound(found, file)
    const rule = typeof found === 'string' ? found : 'accepted'
    rules.set(rule, (rules.get(rule) ?? 0) + 1)
  }
  t.comment(`${COUNT} changed files: ${JSON.stringify(Object.fromEntries(rules))}`)
  t.ok((rules.get('accepted') ?? 0) > COUNT / 100, 'some changes are valid')
  t.ok(rules.size > 15, 'many rules are reached')
})

t.test('noise is refused', async t => {
  const random = new Random(7)
  for (let i = 0; i < 2000; i++) {
    const noise = random.bytes(i % 200)
    const file = i % 2 === 0 ? noise : sealed(join('wdelta\0', noise))
    if (typeof outcome(file) !== 'string') throw new Error('noise was accepted')
  }
  t.pass()
})
