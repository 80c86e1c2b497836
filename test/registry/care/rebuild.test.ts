import { globSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import t, { type Test } from 'tap'
import { openSqliteCatalog } from '../../../src/catalog/sqlite/catalog.ts'
import { rebuildCatalog } from '../../../src/registry/care/adopt.ts'
import { openRegistry } from '../../../src/registry/open-registry.ts'
import type { ListedModel, Registry } from '../../../src/registry/registry.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { goldenCase } from '../../support/models/golden-cases.ts'
import {
  bytesOf,
  folderParts,
  lineageOf,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

const GOLDEN = goldenCase('chain-int4-bf16')
const SIGNAL = new AbortController().signal

/** Models of every kind, in lineages, under several revisions, some of them deleted. */
async function fill(registry: Registry): Promise<void> {
  const base = await publish(registry, [
    ...folderParts(GOLDEN.base),
    part('config.json', Buffer.from('{}')),
  ])
  const delta = readFileSync(GOLDEN.deltas[0]!)
  const first = await publishWdelta(registry, delta, { message: 'first — "light"' })
  const tuned = (step: number) => folderParts(GOLDEN.tuned[step - 1]!)
  const second = await publish(registry, tuned(2), { parent: first.id, strategy: 'sparse' })
  await publish(registry, tuned(3), { parent: second.id, name: 'acme/end', revision: 'v1' })
  await publish(registry, tuned(3), { parent: base.id, strategy: 'whole', name: 'acme/whole' })
  const gone = await publish(registry, tuned(1), { name: 'acme/gone' })
  await publish(registry, tuned(2), { parent: gone.id, strategy: 'whole', name: 'acme/orphan' })
  await registry.models.remove(gone.id)
  // Two of one revision, of which the newer goes: the revision points at nothing then.
  await publish(registry, tuned(1), { name: 'acme/twice' })
  await registry.models.remove((await publish(registry, tuned(2), { name: 'acme/twice' })).id)
  // And two of which the older goes.
  const older = await publish(registry, tuned(1), { name: 'acme/moved' })
  await publish(registry, tuned(2), { name: 'acme/moved' })
  await registry.models.remove(older.id)
}

/** All that can be told of models, and what their revisions point at. */
async function told(registry: Registry) {
  const { models } = await registry.models.list({ limit: 100 })
  const revisions: Record<string, string | null> = {}
  for (const { name, revision } of models) {
    const ref = `${name}@${revision}`
    revisions[ref] = await registry.models.find(ref).then(
      ({ id }) => id,
      () => null,
    )
  }
  const lineages = await Promise.all(models.map(({ id }) => lineageOf(registry, id)))
  const {
    storedBytes: _withWhatWaitsForASweep,
    savedBytes: _saved,
    ...stats
  } = await registry.models.stats()
  return { models, revisions, lineages, stats }
}

async function sound(t: Test, registry: Registry, models: readonly ListedModel[]): Promise<void> {
  for (const { id, sha256 } of models) {
    const content = await registry.models.openReconstruct(id)
    t.equal(content.sha256, sha256)
    await bytesOf(content)
  }
  t.strictSame((await registry.care.scrub({ signal: SIGNAL })).damaged, [])
}

function loseCatalog(folder: string): void {
  for (const path of globSync(join(folder, 'registry.sqlite*'))) rmSync(path)
}

async function rebuild(folder: string) {
  const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
  const blobs = await openFolderBlobStore(join(folder, 'store'))
  try {
    return await rebuildCatalog({ catalog, blobs })
  } finally {
    await catalog.close()
    await blobs.close()
  }
}

t.test('a lost catalog is made again from the store', async t => {
  const first = await openTestRegistry(t)
  await fill(first.registry)
  const before = await told(first.registry)
  t.equal(before.revisions['acme/twice@main'], null)
  await first.close()
  loseCatalog(first.folder)
  await t.rejects(openTestRegistry(t, first.folder), {
    code: 'catalog-failed',
    message: /wdelta rebuild/,
  })
  loseCatalog(first.folder)
  const { models, unadopted } = await rebuild(first.folder)
  t.equal(models.length, before.models.length)
  t.strictSame(unadopted, [])
  const second = await openTestRegistry(t, first.folder)
  t.strictSame(await told(second.registry), before)
  await sound(t, second.registry, before.models)
  await second.close()
  await t.rejects(rebuild(first.folder), { code: 'catalog-failed', message: /has models/ })
})

t.test('an older copy of the catalog takes up what was published since', async t => {
  const first = await openTestRegistry(t)
  await publish(first.registry, folderParts(GOLDEN.base))
  const copy = join(first.folder, 'copy.sqlite')
  {
    await using backup = await first.registry.care.backup()
    writeFileSync(copy, await bytesOf(backup))
  }
  t.strictSame(globSync(join(first.folder, 'backup-*')), [], 'no copy is left behind')
  await fill(first.registry)
  const before = await told(first.registry)
  await first.close()
  const db = new Sqlite(copy)
  t.equal(db.pragma('integrity_check', { simple: true }), 'ok')
  t.strictSame(db.pragma('foreign_key_check'), [])
  db.close()
  loseCatalog(first.folder)
  writeFileSync(join(first.folder, 'registry.sqlite'), readFileSync(copy))
  const second = await openTestRegistry(t, first.folder)
  t.strictSame(await told(second.registry), before)
  await sound(t, second.registry, before.models)
  await second.registry.care.sweep({ dryRun: false })
  await sound(t, second.registry, before.models)
})

t.test('a store of another catalog is refused, not swept', async t => {
  const scratch = t.testdir({ one: {}, other: {} })
  const one = await openTestRegistry(t, join(scratch, 'one'))
  await publish(one.registry, folderParts(GOLDEN.base))
  await one.close()
  const files = () => globSync(join(one.folder, 'store/**/*')).sort()
  const before = files()
  const other = join(scratch, 'other')
  const catalog = await openSqliteCatalog(join(other, 'registry.sqlite'))
  const blobs = await openFolderBlobStore(join(one.folder, 'store'))
  t.teardown(() => Promise.all([catalog.close(), blobs.close()]))
  const deps = { catalog, blobs, pool: one.pool, scratch: other, sweepGraceMs: 0 }
  await t.rejects(openRegistry(deps), { code: 'catalog-failed', message: /another catalog/ })
  t.strictSame(files(), before)
})

t.test('what makes no model is told of and left alone', async t => {
  const first = await openTestRegistry(t)
  const base = await publish(first.registry, folderParts(GOLDEN.base))
  const tuned = folderParts(GOLDEN.tuned[0]!)
  const delta = await publish(first.registry, tuned, { parent: base.id, strategy: 'int4' })
  const other = await publish(first.registry, folderParts(GOLDEN.tuned[1]!))
  const records = await Promise.all(
    [base, delta, other].map(async ({ id }) => (await first.catalog.model(id))!),
  )
  await first.close()
  loseCatalog(first.folder)
  const path = (key: string) => join(first.folder, 'store', key)
  const manifest = readFileSync(path(records[0]!.manifest))
  const bad = Buffer.from(manifest)
  bad[50]! ^= 1
  writeFileSync(path(records[0]!.manifest), bad)
  const { models, unadopted } = await rebuild(first.folder)
  t.strictSame(
    models.map(({ id }) => id),
    [other.id],
  )
  t.strictSame(
    unadopted.map(({ manifest, why }) => [manifest, why.replace(/:.*/, '')]).sort(),
    [
      [records[0]!.manifest, `blob ${records[0]!.manifest}, block at byte 0`],
      [records[1]!.manifest, 'its parent is gone'],
    ].sort(),
  )
  const second = await openTestRegistry(t, first.folder)
  await second.registry.care.sweep({ dryRun: false })
  await second.close()
  // Mended by hand: nothing was swept of it.
  writeFileSync(path(records[0]!.manifest), manifest)
  const third = await openTestRegistry(t, first.folder)
  t.equal((await third.registry.models.list({ limit: 10 })).models.length, 3)
  await sound(t, third.registry, [base, delta, other])
})

t.test('a model that lacks a blob is not adopted', async t => {
  const first = await openTestRegistry(t)
  const { id } = await publish(first.registry, folderParts(GOLDEN.base))
  const { files } = (await first.catalog.model(id))!
  await first.close()
  loseCatalog(first.folder)
  rmSync(join(first.folder, 'store', files[0]!.blob!))
  t.match(await rebuild(first.folder), { models: [], unadopted: [{ why: /is missing/ }] })
})

t.test('a tombstone goes when it says nothing any more', async t => {
  const { registry, folder } = await openTestRegistry(t)
  const tombstones = () => globSync(join(folder, 'store/tombstones/*/*'))
  const parts = () => folderParts(GOLDEN.base)
  const older = await publish(registry, parts())
  const newer = await publish(registry, parts())
  await registry.models.remove(newer.id)
  t.equal(tombstones().length, 1)
  await registry.care.sweep({ dryRun: true })
  t.equal(tombstones().length, 1)
  const newest = await publish(registry, parts())
  await registry.care.sweep({ dryRun: false })
  t.strictSame(tombstones(), [])
  await registry.models.remove(newest.id)
  t.equal(tombstones().length, 1)
  await registry.models.remove(older.id)
  await registry.care.sweep({ dryRun: false })
  t.strictSame(tombstones(), [])
  t.strictSame(globSync(join(folder, 'store/manifests/*/*')), [])
  t.strictSame(globSync(join(folder, 'store/blobs/*/*')), [])
})

t.test(
  'a tombstone that has rotted does not stop the start, nor what else there is to do',
  async t => {
    const { registry, folder, close } = await openTestRegistry(t)
    const parts = () => folderParts(GOLDEN.base)
    const kept = await publish(registry, parts())
    for (let i = 0; i < 2; i++) await registry.models.remove((await publish(registry, parts())).id)
    const paths = globSync(join(folder, 'store/tombstones/*/*'))
    t.equal(paths.length, 2)
    for (const [i, text] of ['{"name":"acme/mod', '{"revision":1}'].entries()) {
      writeFileSync(paths[i]!, text)
    }
    await close()
    const again = await openTestRegistry(t, folder)
    t.match(await again.registry.care.sweep({ dryRun: false }), { dryRun: false })
    t.equal((await again.registry.models.find(kept.id)).id, kept.id)
  },
)
