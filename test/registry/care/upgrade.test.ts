import { createHash } from 'node:crypto'
import {
  cpSync,
  globSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import Sqlite from 'better-sqlite3'
import t, { type Test } from 'tap'
import { openSqliteCatalog } from '../../../src/catalog/sqlite/catalog.ts'
import { Damages } from '../../../src/registry/care/damage.ts'
import { upgradeManifests } from '../../../src/registry/care/upgrade.ts'
import { processHolds } from '../../../src/registry/holds/in-process.ts'
import type { ListedModel, Model } from '../../../src/registry/registry.ts'
import { UNLIMITED } from '../../../src/storage/disk-room.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { weights } from '../../support/models/weights.ts'
import {
  before,
  bytesOf,
  openRegistryOver,
  openTestRegistry,
  part,
  publish,
} from '../../support/servers/test-registry.ts'

/** Data folders as earlier builds left them; `models.json` is what those told of their models. */
const DATA = join(import.meta.dirname, '../../fixtures/data')
/** A base, a version 1 delta on it, and a sparse one on that, of version 0.1. */
const FIXTURE = join(DATA, '0.1')
/**
 * A base with a side file, a lossless delta on it, and a version 1 delta on that, of builds that had JSON manifests still: the first with lossless
 * deltas, whose frames had other checksums, and the last one.
 */
const [LOSSLESS, CHECKSUMS] = [join(DATA, 'lossless'), join(DATA, 'checksums')]
const SIGNAL = new AbortController().signal

/** The fixture as a test's folder has its parts. */
function copyTo(folder: string, fixture = FIXTURE): void {
  cpSync(join(fixture, 'registry.sqlite'), join(folder, 'registry.sqlite'))
  cpSync(join(fixture, 'blobs'), join(folder, 'store/blobs'), { recursive: true })
}

function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-upgrade-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

function modelsOf(fixture: string): Model[] {
  return JSON.parse(readFileSync(join(fixture, 'models.json'), 'utf8'))
}

t.test('models of an earlier version are as they were, and checked from now on', async t => {
  const folder = t.testdir({ store: {} })
  copyTo(folder)
  const told: Model[] = JSON.parse(readFileSync(join(FIXTURE, 'models.json'), 'utf8'))
  const old = told.map(model => ({ ...model, filesTotal: model.files.length }))
  t.equal(old.length, 3)
  for (const time of ['first', 'again']) {
    const { registry, catalog, close } = await openTestRegistry(t, folder)
    const { models } = await registry.models.list({ limit: 10 })
    const withoutSize = (all: readonly ListedModel[]) =>
      all.map(({ storedSize: _, ...rest }) => rest)
    t.strictSame(withoutSize(models), withoutSize(old), time)
    for (const { id, sha256, kind } of models) {
      const whole = await registry.models.openReconstruct(id)
      t.equal(whole.sha256, sha256)
      await bytesOf(whole)
      if (kind === 'delta') await bytesOf(await registry.models.openDelta(id))
      t.match((await catalog.model(id))!.manifest, /^manifests\//)
    }
    const { damaged, blobs } = await registry.care.scrub({ signal: SIGNAL })
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
  const { badBlobs } = processHolds({ newest: async () => null, bad: [] })
  const { upgraded, failed } = await upgradeManifests({
    catalog,
    blobs,
    damages: new Damages({ catalog, blobs, room: UNLIMITED, badBlobs }),
  })
  t.equal(upgraded + failed.length, 3)
  t.match(failed, [{ why: /expected SHA-256/ }])
  await Promise.all([catalog.close(), blobs.close()])
  const { registry } = await openTestRegistry(t, folder)
  await t.rejects(registry.models.openReconstruct(failed[0]!.id), { code: 'damaged' })
})

t.test('lossless models with manifests of JSON are as they were', async t => {
  const folder = t.testdir({ store: {} })
  copyTo(folder, CHECKSUMS)
  const { registry } = await openTestRegistry(t, folder)
  for (const { id, sha256, damaged } of modelsOf(CHECKSUMS)) {
    t.equal(damaged, null)
    const hash = createHash('sha256').update(
      await bytesOf(await registry.models.openReconstruct(id)),
    )
    t.equal(hash.digest('hex'), sha256)
    t.equal((await registry.models.find(id)).damaged, null)
  }
  t.strictSame((await registry.care.scrub({ signal: SIGNAL })).damaged, [])
})

t.test('a model that cannot be upgraded is named and left, whatever the reason', async t => {
  const copy = scratch(t)
  copyTo(copy, LOSSLESS)
  const manifests = new Sqlite(join(copy, 'registry.sqlite'), { readonly: true })
  const keys = manifests
    .prepare<[], string>("SELECT manifest FROM models WHERE kind = 'delta'")
    .pluck()
    .all()
  manifests.close()
  // What this build cannot read, and what no build wrote.
  for (const text of [null, '', 'null', '[]', '{"version":3}', '{"version":2,"shards":[{}]}']) {
    const folder = scratch(t)
    copyTo(folder, LOSSLESS)
    if (text !== null) for (const key of keys) writeFileSync(join(folder, 'store', key), text)
    for (const time of ['first', 'again']) {
      const { registry, close } = await openTestRegistry(t, folder)
      const { models } = await registry.models.list({ limit: 10 })
      t.equal(models.length, 3)
      for (const { id, kind, damaged } of models) {
        const read = registry.models.openReconstruct(id).then(content => bytesOf(content))
        if (kind === 'base') await t.resolves(read)
        else {
          t.ok(damaged, `${text}, ${time}: it is marked`)
          await t.rejects(read, { code: 'damaged' })
        }
      }
      const { id } = await publish(registry, [part('model.safetensors', weights(1))])
      await registry.care.sweep({ dryRun: false })
      await t.resolves(registry.models.openReconstruct(id).then(content => bytesOf(content)))
      await registry.models.remove(id)
      await close()
    }
  }
})

t.test('a bad blob is not read again at each start, until it has changed', async t => {
  const folder = t.testdir({ store: {} })
  copyTo(folder)
  const [path] = globSync(join(folder, 'store/blobs/19/*'))
  const good = readFileSync(path!)
  const bad = Buffer.from(good)
  bad[bad.length >> 1]! ^= 1
  writeFileSync(path!, bad)
  const reads: string[] = []
  const open = async () => {
    const store = await openFolderBlobStore(join(folder, 'store'))
    reads.length = 0
    const counted = before(store, 'read', async key => reads.push(String(key)))
    return openRegistryOver(t, folder, counted)
  }
  const key = relative(join(folder, 'store'), path!)
  const first = await open()
  t.ok(reads.includes(key))
  await first.close()
  const second = await open()
  t.notOk(reads.includes(key))
  await second.close()
  writeFileSync(path!, good)
  utimesSync(path!, new Date(Date.now() + 1000), new Date(Date.now() + 1000))
  const third = await open()
  for (const { id, damaged } of (await third.registry.models.list({ limit: 10 })).models) {
    t.equal(damaged, null)
    await t.resolves(third.registry.models.openReconstruct(id).then(content => bytesOf(content)))
  }
})
