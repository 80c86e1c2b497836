import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { RegistryError } from '../../../src/errors.ts'
import { openRegistry } from '../../../src/registry/open-registry.ts'
import type { Registry, UploadPart } from '../../../src/registry/registry.ts'
import { goldenCase } from '../../support/models/golden-cases.ts'
import {
  before,
  bytesOf,
  folderParts,
  openTestRegistry,
  part,
  publish,
} from '../../support/servers/test-registry.ts'

const SIGNAL = new AbortController().signal
const GOLDEN = goldenCase('int4-bf16')
const TUNED = readFileSync(join(GOLDEN.tuned[0]!, 'model.safetensors'))
const WDELTA = readFileSync(GOLDEN.deltas[0]!)
const baseParts = () => folderParts(GOLDEN.base)
const really = { dryRun: false }

/** Parts that call `before` when they are asked for. */
async function* after(before: () => Promise<unknown>, parts: readonly UploadPart[]) {
  await before()
  yield* parts
}

/** Does `work` the first time that it is called. */
function once(work: () => Promise<unknown>): () => Promise<unknown> {
  let done: Promise<unknown> | undefined
  return () => {
    done ??= work()
    return done
  }
}

/** Far more turns of the event loop than anything here takes that nobody holds up. */
async function turns(): Promise<void> {
  for (let i = 0; i < 50_000; i++) await setImmediate()
}

async function removeAndSweep(registry: Registry, id: string): Promise<void> {
  await registry.models.remove(id)
  await registry.care.sweep(really)
}

t.test('a download that has begun ends well, although its model is deleted and swept', async t => {
  const { registry, folder } = await openTestRegistry(t)
  const base = await publish(registry, baseParts())
  const options = { name: 'acme/tuned', parent: base.id }
  const tuned = await publish(registry, [part('model.safetensors', TUNED)], options)
  const content = await registry.models.openReconstruct(tuned.id)
  const chunks = content.open({ start: 0, end: content.size }, SIGNAL)[Symbol.asyncIterator]()
  const read = [(await chunks.next()).value!.slice()]
  await registry.models.remove(tuned.id)
  await registry.models.remove(base.id)
  t.strictSame((await registry.care.sweep(really)).deleted, [], 'what is read stays')
  for (let next = await chunks.next(); !next.done; next = await chunks.next()) {
    read.push(next.value.slice())
  }
  t.ok(Buffer.concat(read).equals(TUNED))
  t.ok((await registry.care.sweep(really)).deleted.length > 0, 'and goes with the next sweep')
  t.strictSame(globSync(join(folder, 'store/{blobs,manifests}/*/*')), [])
  t.equal(registry.figures().badBlocks, 0)
})

t.test('a content whose model was deleted before it is read is not there any more', async t => {
  const { registry } = await openTestRegistry(t)
  const { id } = await publish(registry, baseParts())
  const content = await registry.models.openReconstruct(id)
  await removeAndSweep(registry, id)
  await t.rejects(bytesOf(content), { code: 'model-not-found' })
  t.equal(registry.figures().badBlocks, 0)
})

t.test('a model that is deleted while it is opened is not damaged', async t => {
  const { registry, ...parts } = await openTestRegistry(t)
  const { id } = await publish(registry, baseParts())
  const remove = once(() => slow.models.remove(id))
  const blobs = before(parts.blobs, 'read', remove)
  await registry.close()
  const slow = await openRegistry({ ...parts, blobs, scratch: parts.folder })
  t.teardown(() => slow.close())
  await t.rejects(slow.models.tensors(id), { code: 'model-not-found' })
  t.equal(slow.figures().badBlocks, 0)
})

t.test(
  'an upload whose parent is deleted and swept meanwhile says so, and leaves nothing',
  async t => {
    const { registry, folder } = await openTestRegistry(t)
    const naming = { name: 'acme/tuned', revision: 'main', message: '' }
    for (const strategy of ['lossless', 'int4'] as const) {
      const { id } = await publish(registry, baseParts())
      const parts = after(() => removeAndSweep(registry, id), [part('model.safetensors', TUNED)])
      const options = { ...naming, parent: id, strategy }
      await t.rejects(registry.publish.files(options, parts, SIGNAL), { code: 'parent-deleted' })
    }
    for (const isNamed of [true, false]) {
      const { id } = await publish(registry, baseParts())
      const sides = after(
        () => removeAndSweep(registry, id),
        [part('README.md', Buffer.from('hello'))],
      )
      const parts = (async function* () {
        yield part('d.wdelta', WDELTA, 'delta')
        yield* sides
      })()
      const options = isNamed ? { ...naming, parent: id } : naming
      const code = isNamed ? 'parent-deleted' : 'parent-unknown'
      await t.rejects(registry.publish.delta(options, parts, SIGNAL), { code })
    }
    await registry.care.sweep(really)
    t.strictSame(globSync(join(folder, 'store/{staged,blobs/*,manifests/*}/*')), [])
    t.strictSame((await registry.models.stats()).models, 0)
    t.equal(registry.figures().badBlocks, 0)
  },
)

t.test('a sweep leaves the tombstone of a model that is being deleted', async t => {
  const parts = await openTestRegistry(t)
  await publish(parts.registry, baseParts())
  const { id } = await publish(parts.registry, baseParts())
  let sweeping: Promise<unknown> | undefined
  const catalog = before(parts.catalog, 'deleteModel', async () => {
    sweeping = registry.care.sweep(really)
    await Promise.race([sweeping, turns()])
  })
  await parts.registry.close()
  const registry = await openRegistry({ ...parts, catalog, scratch: parts.folder })
  t.teardown(() => registry.close())
  await registry.models.remove(id)
  await sweeping
  t.equal(globSync(join(parts.folder, 'store/tombstones/*/*')).length, 1)
})

t.test('sweeps at once do not trip over each other', async t => {
  const parts = await openTestRegistry(t)
  let whenRead = async () => {}
  const blobs = before(parts.blobs, 'read', () => whenRead())
  await parts.registry.close()
  const registry = await openRegistry({ ...parts, blobs, scratch: parts.folder })
  t.teardown(() => registry.close())
  const models = [await publish(registry, baseParts()), await publish(registry, baseParts())]
  for (const { id } of models.reverse()) await registry.models.remove(id)
  let sweeping: Promise<unknown> | undefined
  whenRead = async () => {
    if (sweeping) return
    sweeping = registry.care.sweep(really)
    await Promise.race([sweeping, turns()])
  }
  await registry.care.sweep(really)
  t.ok(sweeping)
  await sweeping
  t.strictSame(globSync(join(parts.folder, 'store/tombstones/*/*')), [])
})

t.test('what a failed publication stored goes, its manifest first', async t => {
  const parts = await openTestRegistry(t)
  const catalog = before(parts.catalog, 'insertModel', async () => {
    throw new RegistryError('catalog-failed', 'no')
  })
  const stored = () => globSync('{manifests,blobs}/*/*', { cwd: join(parts.folder, 'store') })
  const left: string[][] = []
  const blobs = before(parts.blobs, 'delete', async () => left.push(stored()))
  await parts.registry.close()
  const registry = await openRegistry({ ...parts, catalog, blobs, scratch: parts.folder })
  t.teardown(() => registry.close())
  left.length = 0
  await t.rejects(publish(registry, baseParts()), { code: 'catalog-failed' })
  const kinds = left.map(keys => keys.map(key => key.split('/')[0]).sort())
  t.strictSame(kinds, [['blobs', 'manifests'], ['blobs']])
  t.strictSame(stored(), [])
})

t.test(
  'a manifest that a failed publication could not delete goes with the next sweep',
  async t => {
    const parts = await openTestRegistry(t)
    await parts.registry.close()
    const catalog = before(parts.catalog, 'insertModel', async () => {
      throw new RegistryError('catalog-failed', 'no')
    })
    let isFull = false
    const blobs = before(parts.blobs, 'delete', async () => {
      if (isFull) throw new RegistryError('storage-failed', 'no')
    })
    const stored = () => globSync('{manifests,blobs}/*/*', { cwd: join(parts.folder, 'store') })
    const deps = { ...parts, catalog, blobs, scratch: parts.folder, sweepGraceMs: 0 }
    const registry = await openRegistry(deps)
    isFull = true
    await t.rejects(publish(registry, baseParts()), { code: 'catalog-failed' })
    t.ok(stored().some(key => key.startsWith('manifests/')))
    isFull = false
    await registry.care.sweep(really)
    t.strictSame(stored(), [])
    await registry.close()
  },
)
