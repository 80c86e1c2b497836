import t from 'tap'
import type { Span } from '../../../src/codec/base/ranges.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import { OpenedModels } from '../../../src/registry/models/opened-models.ts'
import { sourceOf } from '../../support/engine.ts'
import { weights } from '../../support/models/weights.ts'
import { openTestRegistry, part, publish } from '../../support/servers/test-registry.ts'

/** A base, two fine-tunes of it and one on the first of them, and what opens them. */
async function scene(t: Parameters<typeof openTestRegistry>[0]) {
  const { registry, catalog, blobs } = await openTestRegistry(t)
  const before = weights(1)
  const put = async (seed: number, parent?: string) => {
    const file = weights(seed, parent === undefined ? undefined : before)
    const { id } = await publish(registry, [part('model.safetensors', file)], { parent })
    return (await catalog.model(id))!
  }
  const base = await put(1)
  const [left, right] = [await put(2, base.id), await put(3, base.id)]
  const deep = await put(4, left.id)
  const source = sourceOf(({ blob, start, end }: Span) => blobs.read(blob, { start, end }))
  return { base, left, right, deep, models: new OpenedModels(catalog, source, 1e9, () => {}) }
}

t.test('what is shared counts once, and nothing is left when all are closed', async t => {
  const { base, left, right, deep, models } = await scene(t)
  const used: number[] = []
  for (const record of [base, left, right, deep]) {
    await models.open(record)
    await models.open(record)
    used.push(models.usedBytes)
  }
  const [first, second, third] = used as [number, number, number]
  t.ok(first > 0)
  t.ok(Math.abs(third - second - (second - first)) < 1000, 'the base only once')
  for (const { id } of [base, left]) models.close(id)
  t.ok(models.usedBytes < used.at(-1)!, 'what only they needed')
  t.ok(models.usedBytes > 0)
  for (const { id } of [right, deep]) models.close(id)
  t.equal(models.usedBytes, 0)
})

t.test('a model that is in use stays open and counted, whatever comes', async t => {
  const { base, models } = await scene(t)
  const model = await models.open(base)
  const uses = new DisposableStack()
  uses.use(models.hold(model))
  const own = models.usedBytes
  models.close(base.id)
  t.equal(models.usedBytes, own, 'deleted, and read to its end')
  // Read once more from what was opened before: its place is a new one.
  uses.use(models.hold(model))
  uses.dispose()
  models.close(base.id)
  t.equal(models.usedBytes, 0)
})

t.test('the layout of a dtype is made once, counted, and given back with its model', async t => {
  const { base, models } = await scene(t)
  const model = await models.open(base)
  const before = models.usedBytes
  const [one, two] = await Promise.all([
    models.castLayout(model, 'F32'),
    models.castLayout(model, 'F32'),
  ])
  t.equal(one, two)
  t.equal(await models.castLayout(model, 'F32'), one)
  t.not(await models.castLayout(model, 'F16'), one)
  t.equal(one.size, buildLayout(one.tensors, null).size)
  t.ok(models.usedBytes > before)
  models.close(base.id)
  t.equal(models.usedBytes, 0)
})
