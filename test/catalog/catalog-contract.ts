import { createHash, randomBytes } from 'node:crypto'
import type { TAP, Test } from 'tap'
import type { BlobRecord, Catalog, ModelRecord, TokenRecord } from '../../src/catalog/catalog.ts'
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
    files: [
      { path: 'a.json', size: 1, sha256: sha('a'), blob: delta ? null : data.key },
      { path: 'Z.safetensors', size: 2000, sha256: sha('z'), blob: null },
    ],
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
      damaged: { file: 'f', offset: 12, at: '2026-11-24T10:00:00.000Z' },
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
    t.strictSame(ids(await catalog.lineage(chain.at(-1)!)), chain)
    t.strictSame(ids(await catalog.lineage(chain[0]!)), [chain[0]])
    t.strictSame(ids(await catalog.children(chain[3]!)), [chain[4]])
    t.strictSame(await catalog.lineage('0'.repeat(40)), [])
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
      details: { children: [delta.id] },
    })
    t.strictSame(ids(await catalog.children(base.id)), [copy.id, delta.id])
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
      (await catalog.unreferencedBlobs()).map(({ key }) => key),
      [blobs[0]!.key],
    )
  })

  test('a blob that two files of a model share is named once or twice', async (t, catalog) => {
    const { record, blobs } = model()
    const [file] = record.files
    const files = [file!, { ...file!, path: 'b.json' }]
    await catalog.insertModel({ ...record, files }, [...blobs, blobs[1]!])
    t.strictSame((await catalog.model(record.id))!.files, files)
    t.match(await catalog.stats(), { logicalBytes: 2, storedBytes: 1010 })
    await catalog.deleteModel(record.id)
    t.equal((await catalog.unreferencedBlobs()).length, 2)
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
    t.strictSame(await catalog.unreferencedBlobs(), [])
  })

  test('stats count files as downloaded and blobs as stored', async (t, catalog) => {
    const base = await insert(catalog)
    await insert(catalog, { kind: 'delta', parent: base.id })
    t.strictSame(
      { ...(await catalog.stats()) },
      { models: 2, bases: 1, deltas: 1, logicalBytes: 4002, storedBytes: 2020 },
    )
  })

  test('damage is noted and cleared', async (t, catalog) => {
    const { id } = await insert(catalog)
    const damaged = { file: 'model.safetensors', offset: 2 ** 33, at: '2026-11-24T10:00:00.000Z' }
    await catalog.setDamaged(id, damaged)
    t.strictSame((await catalog.model(id))!.damaged, damaged)
    await catalog.setDamaged(id, null)
    t.equal((await catalog.model(id))!.damaged, null)
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
    t.strictSame(ids(await catalog.modelsOf(bad!.key)), [record.id])
    t.strictSame(await catalog.modelsOf(newBlobKey()), [])
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
    t.equal((await catalog.listTokens()).length, 2)
    await catalog.deleteToken('1')
    t.equal(await catalog.findToken('1'), null)
    await t.rejects(catalog.deleteToken('1'), { code: 'token-not-found' })
  })
}
