import t, { type Test } from 'tap'
import type { FloatDtype } from '../../../src/codec/base/dtypes.ts'
import type { LayoutTensor } from '../../../src/codec/safetensors/layout.ts'
import type { Model, Registry } from '../../../src/registry/registry.ts'
import { layoutOf } from '../../support/models/generated-ranges.ts'
import { changed, filled, sprinkle, unitBytes } from '../../support/models/generated-values.ts'
import { modelFileOf } from '../../support/models/model-file.ts'
import { Random } from '../../support/random.ts'
import {
  bytesOf,
  lineageOf,
  openTestRegistry,
  part,
  publish,
} from '../../support/servers/test-registry.ts'

type Strategy = 'lossless' | 'int4' | 'sparse' | 'quantized'

/** Lossless before, between and after everything else. */
const CHAIN: readonly Strategy[] = [
  'lossless',
  'int4',
  'lossless',
  'sparse',
  'quantized',
  'lossless',
  'lossless',
  'sparse',
]

const SHAPES: readonly (readonly [name: string, shape: readonly number[]])[] = [
  ['embed.weight', [301, 64]],
  ['large.weight', [1024, 1100]],
  ['norm.weight', [77]],
  ['one', [1]],
  ['scalar', []],
  ['none', [0, 3]],
]

/** A safetensors file of {@link SHAPES}, and an integer tensor that lossy strategies copy; `data` makes the bytes of each. */
function modelOf(dtype: FloatDtype, data: (tensor: LayoutTensor) => Uint8Array): Uint8Array {
  const floats = SHAPES.map(([name, shape]) => ({ name, dtype, shape }))
  return modelFileOf([...floats, { name: 'ids', dtype: 'I64', shape: [9] }], data)
}

/** Fine-tunes in a row, of finite values: the strategies of version 1 keep others in no simple way. */
function fineTunesOf(dtype: FloatDtype, random: Random): Uint8Array[] {
  const kinds = [
    'dense',
    'sparse',
    'dense',
    'one element',
    'sparse',
    'dense',
    'run',
    'dense',
  ] as const
  let file = modelOf(dtype, ({ dtype, begin, end }) =>
    filled(random, dtype, end - begin, 'weights'),
  )
  const files = [file]
  for (const kind of kinds) {
    const before = file
    file = modelOf(dtype, ({ name, dtype, begin, end }) =>
      changed(random, dtype, before.subarray(begin, end), name === 'ids' ? 'identical' : kind),
    )
    files.push(file)
  }
  return files
}

const MODEL = 'model.safetensors'
const upload = (file: Uint8Array) => [part(MODEL, file, 'file', 65_536)]
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0

async function fileOf(registry: Registry, model: Model): Promise<Buffer> {
  return bytesOf(await registry.models.openFile(model.id, MODEL))
}

async function float32Of(registry: Registry, model: Model): Promise<Buffer> {
  return bytesOf(await registry.models.openReconstruct(model.id, 'F32'))
}

/** Largest difference of any two floats of files in float32. */
function distance(a: Buffer, b: Buffer): number {
  let most = 0
  for (const { dtype, begin, end } of layoutOf(a).tensors) {
    if (dtype !== 'F32') continue
    for (let at = begin; at < end; at += 4) {
      most = Math.max(most, Math.abs(a.readFloatLE(at) - b.readFloatLE(at)))
    }
  }
  return most
}

/**
 * A delta of version 1 of the same file, made against the parent's values stored whole: as they were uploaded, or the unrounded float32
 * ones where the parent is itself such a delta.
 */
async function onWhole(
  registry: Registry,
  parent: Model,
  file: Uint8Array,
  strategy: Strategy,
): Promise<Model> {
  const lossy = parent.kind === 'delta' && parent.strategy !== 'lossless'
  const bytes = await (lossy ? float32Of : fileOf)(registry, parent)
  const whole = await publish(registry, upload(bytes), { name: 'acme/whole' })
  return publish(registry, upload(file), { parent: whole.id, strategy, name: 'acme/on-whole' })
}

async function checkLossy(
  t: Test,
  registry: Registry,
  model: Model,
  parent: Model,
  file: Uint8Array,
): Promise<void> {
  const strategy = model.strategy as Strategy
  const onParent = parent.kind === 'base' || parent.strategy === 'lossless'
  const { parentHash } = await registry.models.inspect(model.id)
  const expected = onParent ? parent.hashes.stored : parent.hashes.float32
  t.equal(parentHash, expected, 'it names the values of its parent')
  const simple = await onWhole(registry, parent, file, strategy)
  const values = await float32Of(registry, model)
  t.ok(same(values, await float32Of(registry, simple)), 'the values are those on a whole parent')
  if (onParent) {
    const [ours, theirs] = await Promise.all(
      [model, simple].map(async ({ id }) => bytesOf(await registry.models.openDelta(id))),
    )
    t.ok(same(ours!, theirs!), 'the delta is the one on a whole parent')
    t.strictSame(model.error, simple.error)
  }
  const uploaded = await publish(registry, upload(file), { name: 'acme/uploaded' })
  const off = distance(values, await float32Of(registry, uploaded))
  t.ok(off < 1 && off <= model.error!.maxAbs * 1.01 + 0.01, `${strategy} is off by ${off}`)
}

async function checkLossless(
  t: Test,
  registry: Registry,
  model: Model,
  parent: Model,
  file: Uint8Array,
): Promise<void> {
  t.match(model, { kind: 'delta', strategy: 'lossless', error: null, size: file.length })
  t.ok(same(await fileOf(registry, model), file), 'the file')
  t.ok(same(await bytesOf(await registry.models.openReconstruct(model.id)), file), 'its stream')
  t.equal((await registry.models.inspect(model.id)).parentHash, parent.hashes.stored)
  const whole = await publish(registry, upload(file), { name: 'acme/uploaded' })
  t.strictSame(model.hashes, whole.hashes)
  for (const dtype of ['F32', 'F16', 'BF16'] as const) {
    const [ours, theirs] = await Promise.all(
      [model, whole].map(async ({ id }) =>
        bytesOf(await registry.models.openReconstruct(id, dtype)),
      ),
    )
    t.ok(same(ours!, theirs!), `as ${dtype} what the whole model gives`)
  }
}

for (const dtype of ['BF16', 'F16', 'F32'] as const) {
  t.test(`${dtype}: lossless and lossy deltas in one chain`, async t => {
    const { registry } = await openTestRegistry(t)
    const [first, ...files] = fineTunesOf(dtype, new Random(unitBytes(dtype) * 7 + dtype.length))
    let parent = await publish(registry, upload(first!), { name: 'acme/chain' })
    for (const [i, strategy] of CHAIN.entries()) {
      const options = strategy === 'lossless' ? {} : { strategy }
      const name = 'acme/chain'
      const model = await publish(registry, upload(files[i]!), {
        ...options,
        name,
        parent: parent.id,
      })
      const check = strategy === 'lossless' ? checkLossless : checkLossy
      await t.test(`${i}: ${strategy} on ${parent.strategy}`, t =>
        check(t, registry, model, parent, files[i]!),
      )
      parent = model
    }
    const lineage = await lineageOf(registry, parent.id)
    t.strictSame(
      lineage.map(({ strategy }) => strategy),
      ['whole', ...CHAIN],
    )
  })

  t.test(`${dtype}: NaN payloads and -0.0 on a lossy parent`, async t => {
    const { registry } = await openTestRegistry(t)
    const random = new Random(unitBytes(dtype))
    const [first, lossy, last] = fineTunesOf(dtype, random)
    for (const { dtype, begin, end } of layoutOf(last!).tensors) {
      if (dtype !== 'I64' && begin < end)
        sprinkle(random, dtype as FloatDtype, last!.subarray(begin, end))
    }
    const base = await publish(registry, upload(first!))
    for (const strategy of ['int4', 'sparse', 'quantized'] as const) {
      const parent = await publish(registry, upload(lossy!), { parent: base.id, strategy })
      const model = await publish(registry, upload(last!), { parent: parent.id })
      await checkLossless(t, registry, model, parent, last!)
    }
  })
}

t.test('what is frozen upon a lossy parent is its stored values, in every dtype', async t => {
  for (const dtype of ['BF16', 'F16', 'F32'] as const) {
    const { registry } = await openTestRegistry(t)
    const [first, tuned] = fineTunesOf(dtype, new Random(unitBytes(dtype) + 5))
    const base = await publish(registry, upload(first!))
    let parent = await publish(registry, upload(tuned!), { parent: base.id, strategy: 'int4' })
    const frozen = await fileOf(registry, parent)
    for (let level = 0; level < 2; level++) {
      const model = await publish(registry, upload(frozen), { parent: parent.id })
      await checkLossless(t, registry, model, parent, frozen)
      parent = model
    }
    const lossy = await publish(registry, upload(tuned!), { parent: parent.id, strategy: 'sparse' })
    await checkLossy(t, registry, lossy, parent, tuned!)
  }
})
