import { type CatalogTest, ids, insert, sha } from './samples.ts'

/** How every catalog finds models by what they are. */
export function parentContract(test: CatalogTest): void {
  test('models come in the order of their manifests', async (t, catalog) => {
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

  test('candidates for a parent are those that could be it, of equal ones the newest', async (t, catalog) => {
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

  test('models of one signature are found, up to a limit', async (t, catalog) => {
    const found = [await insert(catalog), await insert(catalog), await insert(catalog)].reverse()
    await insert(catalog, { signature: sha('other') })
    t.strictSame(ids(await catalog.bySignature(sha('signature'), 2)), ids(found.slice(0, 2)))
  })
}
