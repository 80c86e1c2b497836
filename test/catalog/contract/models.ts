import { MAX_PAGE_BYTES } from '../../../src/catalog/pages.ts'
import { MAX_LISTED_FILES } from '../../../src/catalog/records.ts'
import { type CatalogTest, ids, insert, sha } from './samples.ts'

/** What every catalog says of models, revisions and lineages. */
export function modelContract(test: CatalogTest): void {
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
}
