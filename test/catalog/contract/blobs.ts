import { newBlobKey } from '../../../src/storage/blob-key.ts'
import { ALL, blob, type CatalogTest, ids, insert, model, sha } from './samples.ts'

/** How every catalog keeps account of blobs, and of what goes. */
export function blobContract(test: CatalogTest): void {
  test('a delta holds its parent, and a whole model lets it go', async (t, catalog) => {
    const base = await insert(catalog)
    const delta = await insert(catalog, { kind: 'delta', parent: base.id })
    const copy = await insert(catalog, { parent: base.id })
    await t.rejects(catalog.deleteModel(base.id), {
      code: 'has-children',
      details: { children: [delta.id], childrenTotal: 1 },
    })
    const { models } = await catalog.list({ parent: base.id, limit: 10 })
    t.strictSame(ids(models), [copy.id, delta.id])
    await catalog.deleteModel(delta.id)
    await catalog.deleteModel(base.id)
    t.equal((await catalog.model(copy.id))!.parent, null)
    await t.rejects(catalog.deleteModel(base.id), { code: 'model-not-found' })
  })

  test('of a delete and a new child at once, exactly one succeeds', async (t, catalog) => {
    for (let i = 0; i < 20; i++) {
      const base = await insert(catalog)
      const [deleted, inserted] = await Promise.allSettled(
        i % 2 === 0
          ? [catalog.deleteModel(base.id), insert(catalog, { kind: 'delta', parent: base.id })]
          : [
              insert(catalog, { kind: 'delta', parent: base.id }),
              catalog.deleteModel(base.id),
            ].reverse(),
      )
      t.ok((deleted!.status === 'fulfilled') !== (inserted!.status === 'fulfilled'))
    }
    await t.rejects(insert(catalog, { kind: 'delta', parent: 'f'.repeat(40) }), {
      code: 'parent-deleted',
    })
  })

  test('a failed insert leaves nothing', async (t, catalog) => {
    const { record, blobs } = model({ kind: 'delta', parent: 'f'.repeat(40) })
    await t.rejects(catalog.insertModel(record, blobs), { code: 'parent-deleted' })
    t.equal(await catalog.hasBlob(blobs[0]!.key), false)
    t.equal(await catalog.resolve(record.name, record.revision), null)
    t.match(await catalog.stats(), { models: 0, logicalBytes: 0, storedBytes: 0 })
  })

  test('the keys of blobs come in pages', async (t, catalog) => {
    const all: string[] = []
    for (let i = 0; i < 3; i++) {
      const { record, blobs } = model()
      await catalog.insertModel(record, blobs)
      all.push(...blobs.map(({ key }) => key))
    }
    all.sort()
    const found: string[] = []
    for (let page = await catalog.blobKeys('', 4); page.length > 0; ) {
      t.ok(page.length <= 4)
      found.push(...page)
      page = await catalog.blobKeys(page.at(-1)!, 4)
    }
    t.strictSame(found, all)
  })

  test('a blob is known by its content, and shared', async (t, catalog) => {
    const { record, blobs } = model()
    await catalog.insertModel(record, blobs)
    const again = model()
    await catalog.insertModel(
      { ...again.record, files: record.files, manifest: again.record.manifest },
      [...again.blobs, blobs[1]!],
    )
    t.strictSame(await catalog.findBlob(blobs[1]!.sha256, blobs[1]!.size), blobs[1])
    t.equal(await catalog.findBlob(blobs[1]!.sha256, blobs[1]!.size + 1), null)
    t.strictSame(await catalog.blob(blobs[1]!.key), blobs[1])
    await t.rejects(catalog.blob(newBlobKey()), { code: 'blob-missing' })
    await catalog.deleteModel(record.id)
    t.strictSame(
      (await catalog.unreferencedBlobs(ALL)).map(({ key }) => key),
      [blobs[0]!.key],
    )
    t.strictSame(await catalog.unreferencedBlobs({ after: blobs[0]!.key, limit: 10 }), [])
  })

  test('what nobody refers to comes in pages, until somebody does again', async (t, catalog) => {
    const models = await Promise.all(
      Array.from({ length: 5 }, async () => {
        const made = model()
        await catalog.insertModel(made.record, made.blobs)
        return made
      }),
    )
    for (const { record } of models) await catalog.deleteModel(record.id)
    const keys = models.flatMap(({ blobs }) => blobs.map(({ key }) => key)).sort()
    const seen: string[] = []
    for (;;) {
      const page = await catalog.unreferencedBlobs({ after: seen.at(-1) ?? '', limit: 3 })
      if (page.length === 0) break
      seen.push(...page.map(({ key }) => key))
    }
    t.strictSame(seen, keys)
    const [again] = models
    await catalog.insertModel({ ...again!.record, id: 'a'.repeat(40) }, again!.blobs)
    t.equal((await catalog.unreferencedBlobs(ALL)).length, keys.length - 2)
  })

  test('a blob that two files of a model share is named once or twice', async (t, catalog) => {
    const { record, blobs } = model()
    const [file] = record.files
    const files = [file!, { ...file!, path: 'b.json' }]
    await catalog.insertModel({ ...record, files }, [...blobs, blobs[1]!])
    t.strictSame((await catalog.model(record.id))!.files, files)
    t.match(await catalog.stats(), { logicalBytes: 2, storedBytes: 1010 })
    await catalog.deleteModel(record.id)
    t.equal((await catalog.unreferencedBlobs(ALL)).length, 2)
  })

  test('only what no model refers to is forgotten', async (t, catalog) => {
    const kept = model()
    const gone = model()
    await catalog.insertModel(kept.record, kept.blobs)
    await catalog.insertModel(gone.record, gone.blobs)
    await catalog.deleteModel(gone.record.id)
    const keys = [...kept.blobs, ...gone.blobs].map(({ key }) => key)
    const forgotten = await catalog.forgetBlobs([...keys, newBlobKey()])
    t.strictSame([...forgotten].sort(), gone.blobs.map(({ key }) => key).sort())
    t.equal(await catalog.hasBlob(kept.blobs[0]!.key), true)
    t.equal(await catalog.hasBlob(gone.blobs[0]!.key), false)
    t.strictSame(await catalog.unreferencedBlobs(ALL), [])
  })

  test('stats count files as downloaded and blobs as stored', async (t, catalog) => {
    const base = await insert(catalog)
    await insert(catalog, { kind: 'delta', parent: base.id })
    t.strictSame(
      { ...(await catalog.stats()) },
      { models: 2, bases: 1, deltas: 1, logicalBytes: 4002, storedBytes: 2020 },
    )
  })

  test('stats follow what comes and goes', async (t, catalog) => {
    const shared = blob(5000)
    const models = []
    for (let i = 0; i < 3; i++) {
      const { record, blobs } = model()
      const files = [...record.files, { path: 'b', size: 1, sha256: sha('b'), blob: shared.key }]
      await catalog.insertModel({ ...record, files }, [...blobs, shared])
      models.push(record.id)
    }
    t.match(await catalog.stats(), { models: 3, logicalBytes: 3 * 2002, storedBytes: 3030 + 5000 })
    await catalog.deleteModel(models[0]!)
    t.match(await catalog.stats(), { models: 2, logicalBytes: 2 * 2002, storedBytes: 2020 + 5000 })
    const { record, blobs } = model({ id: models[1]! })
    await t.rejects(catalog.insertModel(record, [...blobs, blob(7)]))
    t.match(await catalog.stats(), { models: 2, storedBytes: 2020 + 5000 }, 'a failure counts not')
    for (const id of models.slice(1)) await catalog.deleteModel(id)
    t.strictSame(
      { ...(await catalog.stats()) },
      { models: 0, bases: 0, deltas: 0, logicalBytes: 0, storedBytes: 0 },
    )
  })
}
