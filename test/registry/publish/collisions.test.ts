import t, { type Test } from 'tap'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { encodeFrame } from '../../../src/codec/frames/frame-encodings.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'
import { type FilledTensor, modelFile } from '../../support/models/model-file.ts'
import { collision } from '../../support/models/xxh64-collisions.ts'
import { Random } from '../../support/random.ts'
import { bytesOf, openTestRegistry, part, publish } from '../../support/servers/test-registry.ts'

const { machine } = threadKernels()
const MODEL = 'model.safetensors'

const bytes = (name: string, content: Uint8Array): FilledTensor => ({
  name,
  dtype: 'U8',
  shape: [content.length],
  data: content,
})

const noise = (length: number, seed = 1) => new Random(seed).bytes(length)

/** Publishes a fine-tune without loss, and gives how many bytes its tensors take; it comes back as it was. */
async function storedOf(t: Test, base: Uint8Array, tuned: Uint8Array): Promise<number> {
  const { registry } = await openTestRegistry(t, t.testdir())
  const { id: parent } = await publish(registry, [part(MODEL, base, 'file', 65_536)])
  const model = await publish(registry, [part(MODEL, tuned, 'file', 65_536)], { parent })
  t.equal(Buffer.compare(await bytesOf(await registry.models.openFile(model.id, MODEL)), tuned), 0)
  const { tensors } = await registry.models.inspect(model.id)
  return tensors.reduce((sum, { storedBytes }) => sum + storedBytes, 0)
}

const BASE = modelFile([bytes('other', Uint8Array.of(1))])

t.test('the collisions are ones', async t => {
  const content = noise(1000)
  for (const at of [0, 32, 640]) {
    const other = collision(content, at)
    t.not(Buffer.compare(other, content), 0)
    t.equal(machine.checksum(other), machine.checksum(content))
  }
})

t.test('frames with one checksum: in two tensors, and of two dtypes', async t => {
  const one = noise(4096)
  const other = collision(one)
  for (const [dtype, shape] of [
    ['U8', [4096]],
    ['F32', [32, 32]],
    ['F64', [512]],
  ] as const) {
    const tuned = modelFile([bytes('x', one), { name: 'y', dtype, shape, data: other }])
    t.equal(await storedOf(t, BASE, tuned), 2 * 4096, dtype)
  }
})

t.test('frames of one tensor that have one checksum are told apart', async t => {
  const one = noise(FRAME_BYTES)
  const tuned = modelFile([bytes('x', Buffer.concat([one, collision(one, 1024), one]))])
  t.equal(await storedOf(t, BASE, tuned), 2 * FRAME_BYTES, 'equal ones are stored once')
})

t.test('records that have one checksum are told apart', async t => {
  const numbers = (name: string, content: Uint8Array): FilledTensor => {
    return { name, dtype: 'I64', shape: [content.length / 8], data: content }
  }
  const before = noise(4000, 8)
  const gaps = noise(14, 9).map(byte => byte % 35)
  const encoded = (values: Uint8Array) => {
    const frame = before.slice()
    for (const [i, gap] of gaps.entries()) {
      frame.set(values.subarray(i * 8, i * 8 + 8), (i * 35 + gap) * 8)
    }
    const { encoding, stored } = encodeFrame(threadKernels(), 'I64', frame, before)
    t.equal(encoding, 'sparse')
    return { frame, record: stored.slice() }
  }
  const one = encoded(noise(112))
  const record = collision(one.record, 32)
  const other = encoded(record.subarray(-112))
  t.strictSame(Buffer.from(other.record), record)
  t.equal(machine.checksum(other.record), machine.checksum(one.record))
  const base = modelFile([numbers('x', before), numbers('y', before)])
  const tuned = modelFile([numbers('x', one.frame), numbers('y', other.frame)])
  t.equal(await storedOf(t, base, tuned), 2 * record.length)
})

t.test('one record of two frames is stored once', async t => {
  const base = modelFile([bytes('x', noise(6000, 2)), bytes('y', noise(6000, 3))])
  const [x, y] = [noise(6000, 2), noise(6000, 3)]
  for (const content of [x, y]) content.fill(7, 100, 150)
  const stored = await storedOf(t, base, modelFile([bytes('x', x), bytes('y', y)]))
  t.ok(stored < 150, `${stored} bytes`)
})

t.test(
  'a tensor that begins like another of the parent is predicted by it, and is itself',
  async t => {
    const one = noise(100_000)
    const stored = await storedOf(
      t,
      modelFile([bytes('x', one)]),
      modelFile([bytes('y', collision(one))]),
    )
    t.ok(stored < 1000, `${stored} bytes`)
  },
)
