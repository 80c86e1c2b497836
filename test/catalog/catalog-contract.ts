import { createHash, randomBytes } from 'node:crypto'
import type { TAP, Test } from 'tap'
import type { Catalog } from '../../src/catalog/catalog.ts'
import { MAX_PAGE_BYTES } from '../../src/catalog/pages.ts'
import {
  type BlobRecord,
  MAX_LISTED_FILES,
  type ModelRecord,
  type TokenRecord,
} from '../../src/catalog/records.ts'
import { newBlobKey } from '../../src/storage/blob-key.ts'

const sha = (text: string) => createHash('sha256').update(text).digest('hex')

/** A blob of its own content. */
export function blob(size = 100): BlobRecord {
  const key = newBlobKey()
  return { key, sha256: sha(key), size }
}

/** A model with one shard and a manifest, and the blobs that it needs. */
export function model(changes: Partial<ModelRecord> = {}): {
  record: ModelRecord
  blobs: BlobRecord[]
} {
  const id = changes.id ?? randomBytes(20).toString('hex')
  const [manifest, data] = [blob(10), blob(1000)]
  const delta = changes.kind === 'delta'
  const files = changes.files ?? [
    { path: 'a.json', size: 1, sha256: sha('a'), blob: delta ? null : data.key },
    { path: 'Z.safetensors', size: 2000, sha256: sha('z'), blob: null },
  ]
  const record: ModelRecord = {
    id,
    name: 'acme/model',
    revision: 'main',
    kind: 'base',
    strategy: delta ? 'int4' : 'whole',
    parent: null,
    tensors: 3,
    parameters: 494_032_768,
    dtypes: ['BF16', 'F32'],
    size: 2 ** 40 + 1,
    sha256: sha(id),
    storedSize: 1010,
    hashes: { stored: sha(`${id}s`), shardOrder: sha(`${id}o`), float32: sha(`${id}f`) },
    signature: sha('signature'),
    files,
    filesTotal: files.length,
    manifest: manifest.key,
    delta: delta ? data.key : null,
    error: delta ? { nmse: 0.01, maxAbs: 1e-7 } : null,
    damaged: null,
    message: 'first — "light"',
    createdAt: '2026-11-24T10:00:00.000Z',
    ...changes,
  }
  return { record, blobs: [manifest, data] }
}

const token = (id: string, changes: Partial<TokenRecord> = {}): TokenRecord => ({
  id,
  name: 'ci',
  scope: 'write',
  secretHash: sha(id),
  createdAt: '2026-11-24T10:00:00.000Z',
  expiresAt: null,
  ...changes,
})

async function insert(catalog: Catalog, changes: Partial<ModelRecord> = {}): Promise<ModelRecord> {
  const { record, blobs } = model(changes)
  await catalog.insertModel(record, blobs)
  return record
}

const ids = (records: readonly ModelRecord[]) => records.map(({ id }) => id)

const ALL = { after: '', limit: 1000 }

/** The behaviour that every catalog has. `open` gives an empty one, and closes it with the test. */
export function catalogContract(t: TAP, open: (t: Test) => Promise<Catalog>): void {
  const test = (name: string, fn: (t: Test, catalog: Catalog) => Promise<void>) =>
    t.test(name, async t => fn(t, await open(t)))

  test('a model comes back as it was inserted', async (t, catalog) => {
    const base = await insert(catalog)
    const delta = await insert(catalog, { kind: 'delta', parent: base.id, revision: 'v1' })
    t.strictSame(await catalog.model(base.id), base)
    t.strictSame(await catalog.model(delta.id), delta)
    t.equal(await catalog.model('0'.repeat(40)), null)
    const bare = await insert(catalog, {
      hashes: { stored: sha('x'), shardOrder: sha('y'), float32: null },
      files: [],
    })
    t.strictSame(await catalog.model(bare.id), bare)
  })

  test('a revision points at the newest model published under it', async (t, catalog) => {
    const first = await insert(catalog)
    const second = await insert(catalog)
    const other = await insert(catalog, { revision: 'v2' })
    t.equal((await catalog.resolve('acme/model', 'main'))!.id, second.id)
    t.equal((await catalog.resolve('acme/model', 'v2'))!.id, other.id)
    t.equal(await catalog.resolve('acme/model', 'v3'), null)
    t.equal(await catalog.resolve('acme/other', 'main'), null)
    t.equal((await catalog.model(first.id))!.id, first.id, 'older models keep their ids')
    await catalog.deleteModel(second.id)
    t.equal(await catalog.resolve('acme/model', 'main'), null, 'it goes with its model')
  })

  test('an id is given once', async (t, catalog) => {
    const { id } = await insert(catalog)
    await t.rejects(insert(catalog, { id }), { code: 'catalog-failed' })
    t.equal((await catalog.list({ limit: 10 })).models.length, 1)
  })

  test('list is newest first, in pages that neither repeat nor skip', async (t, catalog) => {
    const all: string[] = []
    for (let i = 0; i < 7; i++) all.unshift((await insert(catalog, { name: `acme/m${i % 2}` })).id)
    const seen: string[] = []
    let cursor: string | undefined
    for (;;) {
      const page = await catalog.list({ limit: 3, ...(cursor !== undefined && { cursor }) })
      seen.push(...ids(page.models))
      if (page.next === null) break
      cursor = page.next
      if (seen.length === 3) await insert(catalog)
    }
    t.strictSame(seen, all)
    t.equal((await catalog.list({ limit: 100, name: 'acme/m1' })).models.length, 3)
    t.equal((await catalog.list({ limit: 8 })).next, null, 'a full last page has no next')
    await t.rejects(catalog.list({ limit: 3, cursor: 'nonsense' }), { code: 'bad-request' })
  })

  test('list selects by name, revision and parent together', async (t, catalog) => {
    const base = await insert(catalog)
    const one = await insert(catalog, { kind: 'delta', parent: base.id, revision: 'v1' })
    await insert(catalog, { kind: 'delta', parent: base.id, name: 'acme/other' })
    const found = await catalog.list({
      limit: 10,
      parent: base.id,
      name: 'acme/model',
      revision: 'v1',
    })
    t.strictSame(ids(found.models), [one.id])
    t.strictSame(ids((await catalog.list({ limit: 10, parent: one.id })).models), [])
  })

  test('lineage goes from the base to the model, at full depth', async (t, catalog) => {
    const chain = [(await insert(catalog)).id]
    for (let i = 0; i < 64; i++) {
      chain.push((await insert(catalog, { kind: 'delta', parent: chain.at(-1)! })).id)
    }
    const lineage = async (id: string) => ids((await catalog.lineage(id, { limit: 100 })).models)
    t.strictSame(await lineage(chain.at(-1)!), chain)
    t.strictSame(await lineage(chain[0]!), [chain[0]])
    t.strictSame(await lineage('0'.repeat(40)), [])
    t.strictSame(ids((await catalog.list({ parent: chain[3]!, limit: 10 })).models), [chain[4]])
    t.equal(await catalog.depth(chain.at(-1)!), 64)
    t.equal(await catalog.depth(chain[0]!), 0)
  })

  test('a lineage comes in pages, from the base on', async (t, catalog) => {
    const chain = [(await insert(catalog)).id]
    // Each whole and made from the last: a lineage without a bound.
    for (let i = 0; i < 2500; i++) chain.push((await insert(catalog, { parent: chain.at(-1)! })).id)
    const seen: string[] = []
    const sizes: number[] = []
    let cursor: string | null | undefined
    while (cursor !== null) {
      const page = { limit: 1000, ...(cursor !== undefined && { cursor }) }
      const { models, next } = await catalog.lineage(chain.at(-1)!, page)
      seen.push(...ids(models))
      sizes.push(models.length)
      cursor = next
    }
    t.strictSame(seen, chain)
    t.strictSame(sizes, [1000, 1000, 501])
    t.equal(await catalog.depth(chain.at(-1)!), 0, 'no byte passes through a delta')
    await t.rejects(catalog.lineage(chain[0]!, { limit: 1, cursor: 'nonsense' }), {
      code: 'bad-request',
    })
  })

  test('a page ends before it is too large, and none skips or repeats', async (t, catalog) => {
    const message = 'm'.repeat(10_000)
    const all: string[] = []
    for (let i = 0; i < 500; i++) all.unshift((await insert(catalog, { message })).id)
    const seen: string[] = []
    let pages = 0
    let cursor: string | null | undefined
    while (cursor !== null) {
      const query = { limit: 1000, ...(cursor !== undefined && { cursor }) }
      const { models, next } = await catalog.list(query)
      t.ok(JSON.stringify(models).length < MAX_PAGE_BYTES + 50_000)
      seen.push(...ids(models))
      cursor = next
      pages++
    }
    t.strictSame(seen, all)
    t.ok(pages > 2)
  })

  test('a record has few files or none; all are asked for', async (t, catalog) => {
    const files = Array.from({ length: MAX_LISTED_FILES + 1 }, (_, i) => {
      const path = `${String(i).padStart(4, '0')}.json`
      return { path, size: i, sha256: sha(path), blob: null }
    })
    const few = await insert(catalog, { files: files.slice(1) })
    const many = await insert(catalog, { files })
    t.strictSame((await catalog.model(few.id))!.files, files.slice(1))
    t.match(await catalog.model(many.id), { files: [], filesTotal: files.length, damaged: null })
    const { models } = await catalog.list({ limit: 10 })
    t.match(models, [
      { id: many.id, files: [], filesTotal: files.length },
      { id: few.id, filesTotal: MAX_LISTED_FILES },
    ])
    t.equal(models[1]!.files.length, MAX_LISTED_FILES)
    t.strictSame(await catalog.files(many.id), files)
    t.strictSame(await catalog.files(few.id), files.slice(1))
  })

  test('models in the order of their manifests', async (t, catalog) => {
    const keys = [(await insert(catalog)).manifest, (await insert(catalog)).manifest].sort()
    const range = async (after: string, before: string, limit = 10) => {
      const models = await catalog.modelsByManifest({ after, before, limit })
      return models.map(({ manifest }) => manifest)
    }
    t.strictSame(await range('', '~'), keys)
    t.strictSame(await range('', '~', 1), keys.slice(0, 1))
    t.strictSame(await range(keys[0]!, '~'), keys.slice(1))
    t.strictSame(await range('', keys[1]!), keys.slice(0, 1))
  })

  test('a model is found by each of its hashes, newest first', async (t, catalog) => {
    const hashes = { stored: sha('1'), shardOrder: sha('2'), float32: sha('3') }
    const first = await insert(catalog, { hashes })
    const second = await insert(catalog, { hashes: { ...hashes, float32: null } })
    t.strictSame(ids(await catalog.byHash(sha('1'))), [second.id, first.id])
    t.strictSame(ids(await catalog.byHash(sha('2'))), [second.id, first.id])
    t.strictSame(ids(await catalog.byHash(sha('3'))), [first.id])
    t.strictSame(await catalog.byHash(sha('4')), [])
  })

  test('candidates for a parent: those that could be it, of equal ones the newest', async (t, catalog) => {
    const hashes = { stored: sha('1'), shardOrder: sha('2'), float32: sha('3') }
    const [mine, more, other] = [sha('mine'), sha('more'), sha('other')]
    const put = (signature: string, tensors: number, dtypes: string[], sha256 = sha('same')) =>
      insert(catalog, { hashes, signature, tensors, dtypes, sha256 })
    await put(mine, 2, ['F32'])
    const larger = await put(more, 3, ['F32'])
    const mixed = await put(mine, 2, ['BF16', 'F32'])
    const swapped = await put(mine, 2, ['BF16', 'F32'], sha('swapped'))
    const bf16 = await put(mine, 2, ['BF16'])
    const newest = await put(mine, 2, ['F32'], sha('other header'))
    const misfit = await put(other, 2, ['F32'])
    const smaller = await put(other, 1, ['F32'])
    const named = { signature: mine, count: 2 }
    for (const hash of Object.values(hashes)) {
      const found = await catalog.candidates({ hash, named }, 10)
      t.strictSame(ids(found), ids([newest, bf16, swapped, mixed, larger]))
    }
    const all = await catalog.candidates({ hash: sha('1'), named: null }, 10)
    // One of each signature, whatever else is in it.
    t.strictSame(ids(all), ids([smaller, newest, bf16, swapped, mixed, larger]))
    t.strictSame(ids(await catalog.candidates({ hash: sha('1'), named }, 2)), ids([newest, bf16]))
    t.strictSame(await catalog.candidates({ hash: sha('4'), named }, 2), [])
    await catalog.deleteModel(newest.id)
    const [next] = await catalog.candidates({ hash: sha('1'), named }, 10)
    t.equal(next!.id, bf16.id)
    t.ok(misfit)
  })

  test('models of one signature, at most so many', async (t, catalog) => {
    const found = [await insert(catalog), await insert(catalog), await insert(catalog)].reverse()
    await insert(catalog, { signature: sha('other') })
    t.strictSame(ids(await catalog.bySignature(sha('signature'), 2)), ids(found.slice(0, 2)))
  })

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

  test('a bad blob is damage of all models that need it', async (t, catalog) => {
    const at = '2026-11-24T10:00:00.000Z'
    const later = '2026-11-24T11:00:00.000Z'
    const side = blob()
    const withSide = (made: ReturnType<typeof model>, path: string) => {
      const file = { path, size: side.size, sha256: side.sha256, blob: side.key }
      return { record: { ...made.record, files: [...made.record.files, file] }, own: made.blobs }
    }
    const base = withSide(model(), 'tokenizer.json')
    const weights = base.own[1]!
    const shard = { path: 'm.safetensors', size: 9, sha256: weights.sha256, blob: weights.key }
    const baseRecord = { ...base.record, files: [...base.record.files.slice(1), shard] }
    await catalog.insertModel(baseRecord, [...base.own, side])
    const tuned = model({ kind: 'delta', parent: base.record.id })
    await catalog.insertModel(tuned.record, tuned.blobs)
    const last = withSide(model({ kind: 'delta', parent: tuned.record.id }), 'vocab.json')
    await catalog.insertModel(last.record, [...last.own, side])
    const whole = model({ parent: base.record.id })
    await catalog.insertModel(whole.record, whole.blobs)
    const all = [base.record.id, tuned.record.id, last.record.id, whole.record.id]
    const shown = async () => {
      const found = await Promise.all(all.map(async id => (await catalog.model(id))!.damaged))
      const { models } = await catalog.list({ limit: 10 })
      t.strictSame(
        models.map(({ damaged }) => damaged),
        found.toReversed(),
        'a list says the same',
      )
      return found.map(damaged => damaged && `${damaged.file} ${damaged.offset} ${damaged.at}`)
    }
    t.strictSame(await shown(), [null, null, null, null])
    const bad = async (key: string, offset: number, when = at) => {
      await catalog.setBlobDamage(key, { offset, at: when })
      return shown()
    }
    const tokenizer = `tokenizer.json 3 ${later}`
    t.strictSame(
      await bad(side.key, 3, later),
      [tokenizer, null, `vocab.json 3 ${later}`, null],
      'a side file matters to who has it, by the path that it has there',
    )
    t.strictSame(
      await bad(weights.key, 2 ** 40),
      [...Array(3).fill(`m.safetensors ${2 ** 40} ${at}`), null],
      'weights matter to all that is built on them; what was seen first is shown',
    )
    await catalog.setBlobDamage(weights.key, null)
    const delta = `acme--model.wdelta 0 ${at}`
    t.strictSame(await bad(tuned.record.delta!, 0), [tokenizer, delta, delta, null])
    await catalog.setBlobDamage(tuned.record.delta!, null)
    const manifest = `manifest 0 ${at}`
    t.strictSame(await bad(base.record.manifest, 0), [manifest, manifest, manifest, null])
    // More bad blobs than are asked for one by one.
    for (let i = 0; i < 50; i++) {
      const other = model({ name: 'acme/other' })
      await catalog.insertModel(other.record, other.blobs)
      await catalog.setBlobDamage(other.blobs[0]!.key, { offset: 0, at })
      await catalog.deleteModel(other.record.id)
    }
    t.strictSame(await shown(), [manifest, manifest, manifest, null])
    await catalog.setBlobDamage(base.record.manifest, null)
    await catalog.setBlobDamage(side.key, null)
    t.strictSame(await shown(), [null, null, null, null])
  })

  test('a blob with a bad block is not what equal content is taken to be', async (t, catalog) => {
    const { record, blobs } = model()
    await catalog.insertModel(record, blobs)
    const [, bad] = blobs
    const at = '2026-11-24T10:00:00.000Z'
    t.strictSame(await catalog.copyOf(bad!.key), bad)
    await catalog.setBlobDamage(bad!.key, { offset: 2 ** 40, at })
    await catalog.setBlobDamage(bad!.key, { offset: 0, at: 'later' })
    await catalog.setBlobDamage(newBlobKey(), { offset: 0, at })
    t.strictSame(await catalog.damagedBlobs(), [{ ...bad!, offset: 2 ** 40, at }])
    t.equal(await catalog.findBlob(bad!.sha256, bad!.size), null)
    t.equal(await catalog.copyOf(bad!.key), null)
    t.strictSame(await catalog.blob(bad!.key), bad, 'it stays where it is')
    const again = model()
    const copy = { ...bad!, key: newBlobKey() }
    const files = record.files.map(file => ({ ...file, blob: copy.key }))
    await catalog.insertModel({ ...again.record, files }, [...again.blobs, copy])
    t.strictSame(await catalog.copyOf(bad!.key), copy)
    await catalog.setBlobDamage(bad!.key, null)
    t.strictSame(await catalog.damagedBlobs(), [])
    t.strictSame(ids(await catalog.modelsOf(bad!.key, 2)), [record.id])
    t.strictSame(await catalog.modelsOf(newBlobKey(), 2), [])
    await catalog.setBlobDamage(bad!.key, { offset: 1, at })
    await catalog.deleteModel(record.id)
    await catalog.forgetBlobs([bad!.key])
    t.strictSame(await catalog.damagedBlobs(), [], 'what is forgotten has no damage')
  })

  test('a revision points at the newest model, in whatever order they come', async (t, catalog) => {
    const times = [
      '2026-11-24T10:00:00.001Z',
      '2026-11-24T10:00:00.003Z',
      '2026-11-24T10:00:00.002Z',
    ]
    const [first, newest] = [
      await insert(catalog, { createdAt: times[0]! }),
      await insert(catalog, { createdAt: times[1]! }),
    ]
    await insert(catalog, { createdAt: times[2]! })
    const { name, revision } = first
    t.equal((await catalog.resolve(name, revision))!.id, newest.id)
    await catalog.dropRevision(name, revision, newest.createdAt)
    t.equal((await catalog.resolve(name, revision))!.id, newest.id, 'it is not older than itself')
    await catalog.dropRevision(name, revision, '2026-11-24T10:00:00.004Z')
    t.equal(await catalog.resolve(name, revision), null)
  })

  test('it knows which catalog it is', async (t, catalog) => {
    const identity = await catalog.identity()
    t.match(identity, /^[0-9a-f]{32}$/)
    t.equal(await catalog.identity(), identity)
    await catalog.setIdentity('0'.repeat(32))
    t.equal(await catalog.identity(), '0'.repeat(32))
  })

  test('tokens', async (t, catalog) => {
    const [one, two] = [token('1'), token('2', { expiresAt: '2027-01-01T00:00:00.000Z' })]
    await catalog.insertToken(one)
    await catalog.insertToken(two)
    t.strictSame({ ...(await catalog.findToken('2')) }, two)
    t.equal(await catalog.findToken('3'), null)
    const page = await catalog.listTokens({ limit: 1 })
    t.equal(page.tokens[0]!.id, '2')
    t.match(await catalog.listTokens({ limit: 1, cursor: page.next! }), {
      tokens: [{ id: '1' }],
      next: null,
    })
    t.equal((await catalog.listTokens({ limit: 10 })).tokens.length, 2)
    await t.rejects(catalog.listTokens({ limit: 1, cursor: 'x' }), { code: 'bad-request' })
    await catalog.deleteToken('1')
    t.equal(await catalog.findToken('1'), null)
    await t.rejects(catalog.deleteToken('1'), { code: 'token-not-found' })
  })
}
