import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { type Dtype, itemBytes } from '../../../src/codec/base/dtypes.ts'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { buildLayout, type DescribedTensor } from '../../../src/codec/safetensors/write-header.ts'
import type { Model, Registry } from '../../../src/registry/registry.ts'
import type { Piece, Task, TaskMessage } from '../../../src/workers/tasks.ts'
import { Random } from '../../support/random.ts'
import {
  bytesOf,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

const FILE = 'model.safetensors'

/** A file of tensors with random values; some of those before it changed, where it is given. */
function fileOf(tensors: readonly DescribedTensor[], seed: number, before?: Uint8Array) {
  const random = new Random(seed)
  const layout = buildLayout(tensors, null)
  const bytes = new Uint8Array(layout.size)
  bytes.set(layout.header)
  const values = bytes.subarray(layout.header.length)
  if (before) values.set(before.subarray(layout.header.length))
  else for (let at = 0; at < values.length; at++) values[at] = random.next() & 0x3f
  if (before) for (let at = 0; at < values.length; at += 1 + random.below(200)) values[at]! ^= 1
  return bytes
}

/** One of a frame and a little more, one of a few values, one of none, and a scalar. */
function tensorsOf(dtype: Dtype): DescribedTensor[] {
  const shapes = { z: [FRAME_BYTES / itemBytes(dtype) + 4096], a: [64, 3], m: [0], 'm.1': [] }
  return Object.entries(shapes).map(([name, shape]) => ({ name, dtype, shape }))
}

const bytesIn = (tensors: readonly DescribedTensor[]) =>
  buildLayout(tensors, null).size - buildLayout(tensors, null).header.length

/** Bytes of values, as they are stored, that a task has pieces for. */
function valuesIn(task: Task): number {
  const pieces: readonly Piece[] =
    'pieces' in task ? task.pieces : task.kind === 'digests' ? task.tensors.flat() : []
  let bytes = 0
  for (const piece of pieces) {
    if (piece.kind === 'copy') bytes += piece.size
    else if (piece.kind === 'frame') bytes += piece.frame.count * itemBytes(piece.frame.load)
    else if (piece.kind === 'lossless') bytes += piece.slice.end - piece.slice.start
  }
  return bytes
}

/** How often the `bytes` of a model are decoded or read until it is published. */
async function timesRead(t: Test, bytes: number, work: () => Promise<Model>) {
  const sent = t.capture(Worker.prototype, 'postMessage', Worker.prototype.postMessage)
  const model = await work()
  const tasks = sent().map(({ args: [message] }) => (message as TaskMessage).task)
  sent.restore()
  return { model, times: tasks.reduce((sum, task) => sum + valuesIn(task), 0) / bytes }
}

/** The bytes of the delta of a model. */
async function deltaOf(registry: Registry, { id }: Model): Promise<Uint8Array> {
  return bytesOf(await registry.models.openDelta(id))
}

t.test('a publication decodes its model as often as it has orders to hash it in', async t => {
  const { registry } = await openTestRegistry(t)
  const tensors = tensorsOf('BF16')
  const bytes = bytesIn(tensors)
  const times = (work: () => Promise<Model>) => timesRead(t, bytes, work)
  let file = fileOf(tensors, 1)
  const base = await times(() => publish(registry, [part(FILE, file)]))
  t.equal(
    base.times,
    2,
    'whole: with the identity, and in float32 beside it, as nothing is decoded',
  )
  let parent = base.model
  for (let level = 1; level <= 3; level++) {
    file = fileOf(tensors, 1 + level, file)
    const tuned = await times(() => publish(registry, [part(FILE, file)], { parent: parent.id }))
    t.match(tuned.model, { strategy: 'lossless', parent: parent.id })
    t.equal(tuned.times, 2, `lossless, level ${level}: the file, and all else`)
    const delta = await deltaOf(registry, tuned.model)
    const again = await times(() => publishWdelta(registry, delta, { parent: parent.id }))
    t.equal(again.times, 2, `as a delta, level ${level}`)
    t.strictSame(again.model.hashes, tuned.model.hashes)
    parent = tuned.model
  }
  const options = { parent: parent.id, strategy: 'int4' } as const
  const encoded = await times(() => publish(registry, [part(FILE, file)], options))
  t.equal(encoded.times, 3, 'with steps: unrounded float32 is another pass')
})

t.test('in shards, the order of which is another, it is twice more', async t => {
  const { registry } = await openTestRegistry(t)
  const [z, a, ...between] = tensorsOf('BF16')
  const files = (seed: number, before?: readonly Uint8Array[]) =>
    [[a!, z!], between].map((tensors, i) => fileOf(tensors, seed + i, before?.[i]))
  const parts = (shards: readonly Uint8Array[]) =>
    shards.map((bytes, i) => part(`model-0000${i + 1}-of-00002.safetensors`, bytes))
  const before = files(1)
  const base = await publish(registry, parts(before))
  const tuned = await timesRead(t, bytesIn(tensorsOf('BF16')), () =>
    publish(registry, parts(files(3, before)), { parent: base.id }),
  )
  t.equal(tuned.model.strategy, 'lossless')
  t.equal(tuned.times, 4, 'its files, by name, by shard, and as one file')
})

const DTYPES: readonly Dtype[] = ['BF16', 'F16', 'F32', 'F64', 'F8_E4M3', 'I64', 'U8', 'BOOL']

t.test('hashes and identity do not tell how a model is stored', async t => {
  const { registry } = await openTestRegistry(t)
  for (const dtypes of [...DTYPES.map(dtype => [dtype]), DTYPES]) {
    const tensors = dtypes.flatMap(dtype =>
      tensorsOf(dtype).map(({ name, shape }) => ({ name: `${name}.${dtype}`, dtype, shape })),
    )
    // One of each is enough where there are all.
    const few = dtypes.length > 1 ? tensors.filter(({ name }) => !name.startsWith('z')) : tensors
    const before = fileOf(few, 1)
    const after = fileOf(few, 2, before)
    const base = await publish(registry, [part(FILE, before)])
    const whole = await publish(registry, [part(FILE, after)])
    const tuned = await publish(registry, [part(FILE, after)], { parent: base.id })
    t.match(tuned, { strategy: 'lossless', hashes: whole.hashes, sha256: whole.sha256 })
    // A delta names its parent by identity.
    const next = await publish(registry, [part(FILE, before)], { parent: tuned.id })
    const onWhole = await publishWdelta(registry, await deltaOf(registry, next), {
      parent: whole.id,
    })
    t.match(onWhole, { parent: whole.id, hashes: base.hashes }, dtypes.join())
  }
})
