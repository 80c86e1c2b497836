import { cpSync, globSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openSqliteCatalog } from '../../src/catalog/sqlite-catalog.ts'
import type { ListedModel, Model } from '../../src/registry/registry.ts'
import { upgradeManifests } from '../../src/registry/upgrade.ts'
import { openFolderBlobStore } from '../../src/storage/folder-blob-store.ts'
import { bytesOf, openTestRegistry } from './helper.ts'

/** A base, a version 1 delta on it, and a sparse one on that, as version 0.1 left its data folder; `models.json` is what it told of them. */
const FIXTURE = join(import.meta.dirname, '../fixtures/data/0.1')
const SIGNAL = new AbortController().signal

/** The fixture as a test's folder has its parts. */
function copyTo(folder: string): void {
  cpSync(join(FIXTURE, 'registry.sqlite'), join(folder, 'registry.sqlite'))
  cpSync(join(FIXTURE, 'blobs'), join(folder, 'store/blobs'), { recursive: true })
}

t.test('models of an earlier version are as they were, and checked from now on', async t => {
  const folder = t.testdir({ store: {} })
  copyTo(folder)
  const told: Model[] = JSON.parse(readFileSync(join(FIXTURE, 'models.json'), 'utf8'))
  const old = told.map(model => ({ ...model, filesTotal: model.files.length }))
  t.equal(old.length, 3)
  for (const time of ['first', 'again']) {
    const { registry, catalog, close } = await openTestRegistry(t, folder)
    const { models } = await registry.list({ limit: 10 })
    const withoutSize = (all: readonly ListedModel[]) =>
      all.map(({ storedSize: _, ...rest }) => rest)
    t.strictSame(withoutSize(models), withoutSize(old), time)
    for (const { id, sha256, kind } of models) {
      const whole = await registry.openReconstruct(id)
      t.equal(whole.sha256, sha256)
      await bytesOf(whole)
      if (kind === 'delta') await bytesOf(await registry.openDelta(id))
      t.match((await catalog.model(id))!.manifest, /^manifests\//)
    }
    const { damaged, blobs } = await registry.scrub({ signal: SIGNAL })
    t.strictSame(damaged, [])
    t.equal(globSync(join(folder, 'store/{blobs,manifests}/*/*')).length, blobs, 'all is swept')
    await close()
  }
})

t.test('a byte that has changed since is not taken for good', async t => {
  const folder = t.testdir({ store: {} })
  copyTo(folder)
  const [path] = globSync(join(folder, 'store/blobs/19/*'))
  const bytes = readFileSync(path!)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(path!, bytes)
  const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
  const blobs = await openFolderBlobStore(join(folder, 'store'))
  const { upgraded, failed } = await upgradeManifests(catalog, blobs)
  t.equal(upgraded + failed.length, 3)
  t.match(failed, [{ why: /expected SHA-256/ }])
  await Promise.all([catalog.close(), blobs.close()])
  const { registry } = await openTestRegistry(t, folder)
  await t.rejects(registry.openReconstruct(failed[0]!.id), { code: 'damaged' })
})
