import t from 'tap'
import type { DescribedTensor } from '../../../src/codec/safetensors/write-header.ts'
import { modelFileOf } from '../../support/models/model-file.ts'
import { deltaFile, f32s, i64s, record } from '../../support/models/wdelta-files.ts'
import {
  bytesOf,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

const FILE = 'model.safetensors'
/** Bytes that models may take while they are open: a few levels of a chain of a few thousand tensors. */
const OPEN_BYTES = 6_000_000

/** A file of `count` tensors of one F32, or of none, all with the value `value`. */
function tinyTensors(count: number, { elements, value = 0 }: { elements: 0 | 1; value?: number }) {
  const tensors: DescribedTensor[] = Array.from({ length: count }, (_, i) => ({
    name: `layer.${i}`,
    dtype: 'F32',
    shape: [elements],
  }))
  const data = f32s(...new Array<number>(elements).fill(value))
  return modelFileOf(tensors, () => data)
}

t.test(
  'a chain ends where it would not fit into memory, and what was accepted opens again',
  async t => {
    const folder = t.testdir()
    const first = await openTestRegistry(t, folder, { openBytes: OPEN_BYTES })
    const accepted: { id: string; file: Buffer }[] = []
    let refusal: unknown = null
    for (let i = 0; i < 10 && !refusal; i++) {
      const file = tinyTensors(3000, { elements: 1, value: i + 1 })
      const parent = accepted.at(-1)?.id
      try {
        const { id } = await publish(first.registry, [part(FILE, file)], { parent })
        accepted.push({ id, file })
      } catch (error) {
        refusal = error
      }
    }
    t.match(refusal, { code: 'lineage-too-large', details: { expected: OPEN_BYTES, came: Number } })
    t.ok(accepted.length >= 2, `${accepted.length} fit`)
    const small = await publish(first.registry, [part(FILE, tinyTensors(2, { elements: 1 }))])
    t.equal(small.tensors, 2, 'others are not concerned')
    await first.close()

    const { registry } = await openTestRegistry(t, folder, { openBytes: OPEN_BYTES })
    for (const { id, file } of accepted.toReversed()) {
      const contents = await Promise.all(
        [undefined, 'F16', 'BF16'].map(dtype =>
          registry.models.openReconstruct(id, dtype as never),
        ),
      )
      t.ok((await bytesOf(contents[0]!)).equals(file))
    }
  },
)

t.test('a delta fits where the files of its model do: its parent is counted once', async t => {
  const { registry } = await openTestRegistry(t, t.testdir(), { openBytes: 2_500_000 })
  const tensor = { dtype: 'float32', strategy: 'sparse', shape: [1], sparsity: 0 }
  const arrays = { indices: { _ref: 'indices' }, values: { _ref: 'values' } }
  let parent: string | undefined
  for (let value = 0; value < 4; value++) {
    const file = tinyTensors(1000, { elements: 1, value })
    const { id, hashes } = await publish(registry, [part(FILE, file)], { parent })
    const header = {
      parent_hash: hashes.stored,
      strategy: 'sparse',
      tensors: { 'layer.0': { ...tensor, ...arrays } },
    }
    const delta = deltaFile(header, [
      record('layer.0', 'indices', 'int64', 8, i64s(0)),
      record('layer.0', 'values', 'float32', 4, f32s(1)),
    ])
    const made = await publishWdelta(registry, delta, { parent: id })
    t.equal(made.parent, id, `upon ${value} deltas`)
    parent = id
  }
})

t.test('what a chain leaves as it is takes nothing, however long it gets', async t => {
  const { registry } = await openTestRegistry(t, t.testdir(), { openBytes: OPEN_BYTES })
  for (const elements of [0, 1] as const) {
    const file = tinyTensors(2000, { elements })
    let parent: string | undefined
    for (let i = 0; i < 8; i++)
      ({ id: parent } = await publish(registry, [part(FILE, file)], { parent }))
    t.ok((await bytesOf(await registry.models.openReconstruct(parent!))).equals(file))
  }
})

t.test('many that are read at once are open one after the other, and all are answered', async t => {
  const folder = t.testdir()
  const { registry, close } = await openTestRegistry(t, folder, { openBytes: OPEN_BYTES })
  const ids: string[] = []
  for (let i = 0; i < 6; i++) {
    const file = tinyTensors(3000, { elements: 1, value: i })
    ids.push((await publish(registry, [part(FILE, file)], { name: `acme/m${i}` })).id)
  }
  await close()
  const again = await openTestRegistry(t, folder, { openBytes: OPEN_BYTES })
  const sizes = await Promise.all(
    [...ids, ...ids].map(async id => (await again.registry.models.openReconstruct(id, 'F16')).size),
  )
  t.equal(new Set(sizes).size, 1)
})

t.test(
  'a model of which there is never room for the header is refused when that is there',
  async t => {
    const { registry } = await openTestRegistry(t, t.testdir(), { openBytes: 100_000 })
    const file = tinyTensors(3000, { elements: 1 })
    let sent = 0
    const body = async function* () {
      for (let at = 0; at < file.length; at += 1000) {
        sent = at
        yield file.subarray(at, at + 1000)
      }
    }
    const parts = [{ field: 'file', path: FILE, body: body() }]
    await t.rejects(publish(registry, parts), { code: 'lineage-too-large' })
    t.ok(sent < file.length - 2000, 'before the rest was read')
  },
)

t.test(
  'tensors that take hardly a byte each are a model too, and so is a fine-tune of them',
  async t => {
    const { registry } = await openTestRegistry(t)
    const files = [tinyTensors(25_000, { elements: 0 }), tinyTensors(20_000, { elements: 1 })]
    for (const file of files) {
      const base = await publish(registry, [part(FILE, file, 'file', 2 ** 20)])
      const options = { parent: base.id }
      const { id } = await publish(registry, [part(FILE, file, 'file', 2 ** 20)], options)
      t.ok((await bytesOf(await registry.models.openReconstruct(id))).equals(file))
      t.equal((await registry.models.tensors(id)).length, base.tensors)
      t.equal((await registry.models.inspect(id)).tensors.length, base.tensors)
    }
  },
)
