import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openSqliteCatalog } from '../../../src/catalog/sqlite/catalog.ts'
import { openRegistry } from '../../../src/registry/open-registry.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { weights } from '../../support/models/weights.ts'
import {
  bytesOf,
  openRegistryOver,
  openTestRegistry,
  part,
  publish,
} from '../../support/servers/test-registry.ts'
import { damageMatrix, MODEL, publishScene, readEverything } from './damage-matrix.ts'

const SIGNAL = new AbortController().signal

async function open(t: Test) {
  const opened = await openTestRegistry(t)
  const path = (key: string) => join(opened.folder, 'store', key)
  return { ...opened, path }
}

async function scene(t: Test) {
  const opened = await open(t)
  return { ...opened, ...(await publishScene(opened.registry, opened.catalog)) }
}

t.test('a flipped bit anywhere in a store is never served, and scrub names it', async t => {
  const { registry, catalog, path } = await open(t)
  await damageMatrix(t, {
    registry,
    catalog,
    read: async key => readFileSync(path(key)),
    write: async (key, bytes) => writeFileSync(path(key), bytes),
  })
})

t.test('a blob that is cut or gone is damage too', async t => {
  const { registry, models, truth, blobsOf, path } = await scene(t)
  const [base] = models
  const { key } = (await blobsOf(base!)).find(({ file }) => file === MODEL)!
  const sound = readFileSync(path(key))
  truncateSync(path(key), sound.length - 1000)
  t.ok((await readEverything(t, registry, models, truth)).length > 0)
  const cut = await registry.care.scrub({ signal: SIGNAL })
  t.match(cut.damaged, [{ model: base!.id, file: MODEL, why: 'short' }])
  rmSync(path(key))
  // A worker that has it open still reads it: a new process would not.
  const gone = await registry.care.scrub({ signal: SIGNAL })
  t.ok(gone.damaged.length > 0)
})

t.test('content that is published again takes the place of a bad block', async t => {
  const { registry, models, truth, blobsOf, path, catalog } = await scene(t)
  const [base] = models
  const { key } = (await blobsOf(base!)).find(({ file }) => file === MODEL)!
  const sound = readFileSync(path(key))
  const bad = Buffer.from(sound)
  bad[100_000]! ^= 1
  writeFileSync(path(key), bad)
  t.ok((await readEverything(t, registry, models, truth)).length > 0)
  t.ok((await registry.models.find(base!.id)).damaged)
  const again = await publish(registry, [part(MODEL, sound)], { name: 'acme/again' })
  const copy = (await catalog.model(again.id))!.files[0]!.blob
  t.not(copy, key, 'a bad blob is not what equal content is taken to be')
  t.strictSame(await readEverything(t, registry, models, truth), [], 'the copy is read')
  t.ok((await registry.models.find(base!.id)).damaged, 'the bad block is still there')
  t.equal((await registry.models.find(again.id)).damaged, null)
  t.match((await registry.care.scrub({ signal: SIGNAL })).damaged, [{ model: base!.id }])
})

t.test('a model is not published over a parent that has a bad block', async t => {
  const { registry, models, blobsOf, path } = await scene(t)
  const [base] = models
  const { key } = (await blobsOf(base!)).find(({ file }) => file === MODEL)!
  const bad = readFileSync(path(key))
  bad[200_000]! ^= 1
  writeFileSync(path(key), bad)
  for (const strategy of ['lossless', 'int4'] as const) {
    const tuned = [part(MODEL, weights(9, weights(1)))]
    await t.rejects(publish(registry, tuned, { parent: base!.id, strategy }), { code: 'damaged' })
  }
  t.match(
    (await registry.models.find(base!.id)).damaged,
    { file: MODEL },
    'and that is known from then on',
  )
  t.equal((await registry.models.list({ limit: 100 })).models.length, models.length)
})

t.test('a bad block costs as much with any number of models that share it', async t => {
  const folder = t.testdir()
  const blobs = await openFolderBlobStore(join(folder, 'store'))
  const {
    registry: publisher,
    catalog: first,
    close,
    pool,
  } = await openRegistryOver(t, folder, blobs)
  const side = Buffer.alloc(100_000, 'tokenizer')
  const base = await publish(publisher, [part(MODEL, weights(1)), part('tokenizer.json', side)])
  const ids = [base.id]
  const calls: number[] = []
  const key = (await first.files(base.id)).find(({ path }) => path === 'tokenizer.json')!.blob!
  await close()
  const file = join(folder, 'store', key)
  for (const count of [10, 20]) {
    const store = await openFolderBlobStore(join(folder, 'store'))
    const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
    let called = 0
    const counted = new Proxy(catalog, {
      get: (target, name) => {
        const method = Reflect.get(target, name)
        return (...args: unknown[]) => {
          called++
          return method.apply(target, args)
        }
      },
    })
    const registry = await openRegistry({ catalog: counted, blobs: store, pool, scratch: folder })
    while (ids.length < count) {
      const parts = [part(MODEL, weights(ids.length + 1)), part('tokenizer.json', side)]
      ids.push((await publish(registry, parts, { name: `acme/m${ids.length}` })).id)
    }
    const bad = Buffer.from(side)
    bad[70_000]! ^= 1
    writeFileSync(file, bad)
    const content = await registry.models.openFile(ids[3]!, 'tokenizer.json')
    called = 0
    await t.rejects(bytesOf(content), { code: 'damaged' })
    calls.push(called)
    const { models } = await registry.models.list({ limit: 100 })
    t.equal(models.length, count)
    for (const { damaged } of models) t.match(damaged, { file: 'tokenizer.json', offset: 65_536 })
    writeFileSync(file, side)
    t.equal((await registry.care.scrub({ signal: SIGNAL })).clearedTotal, count)
    await registry.close()
    await catalog.close()
    await store.close()
  }
  t.equal(calls[0], calls[1], `${calls.join(' and ')} questions`)
})
