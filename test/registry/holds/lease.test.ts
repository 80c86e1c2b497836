import { cpSync, globSync, mkdtempSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import t, { type Test } from 'tap'
import type { Catalog } from '../../../src/catalog/catalog.ts'
import { openSqliteCatalog } from '../../../src/catalog/sqlite/catalog.ts'
import { RegistryError } from '../../../src/errors.ts'
import { rebuildCatalog } from '../../../src/registry/care/adopt.ts'
import { Lease, type LeaseOptions } from '../../../src/registry/holds/lease.ts'
import { ownProcessMark } from '../../../src/registry/holds/process-mark.ts'
import type { BlobStore } from '../../../src/storage/blob-store.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { openS3BlobStore } from '../../../src/storage/s3/blob-store.ts'
import { weights } from '../../support/models/weights.ts'
import { FakeS3 } from '../../support/servers/fake-s3.ts'
import {
  bytesOf,
  endlessPause,
  openRegistryOver,
  part,
  publish,
} from '../../support/servers/test-registry.ts'

const STALE_MS = 12_000
const LOOK_MS = 1000
const FILE = 'model.safetensors'
const USED = { code: 'store-in-use' }

/** What a test of any store needs: how to open it, and what lies in it. */
interface Place {
  /** Null for a bucket. */
  readonly folder: string | null
  open(): Promise<BlobStore>
  keys(): string[]
}

type Kind = 'folder' | 'bucket'

async function placeOf(t: Test, kind: Kind): Promise<Place> {
  if (kind === 'folder') {
    const folder = scratch(t)
    return {
      folder,
      open: () => openFolderBlobStore(folder),
      keys: () => globSync('{blobs,manifests}/*/*', { cwd: folder }).sort(),
    }
  }
  const fake = await FakeS3.start()
  t.teardown(() => fake[Symbol.asyncDispose]())
  return {
    folder: null,
    open: () => openS3BlobStore(fake.options()),
    keys: () => [...fake.bucket.objects.keys()].filter(key => /^(blobs|manifests)\//.test(key)),
  }
}

function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-lease-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

async function openOn(t: Test, place: Place, lease?: Partial<LeaseOptions>, folder = scratch(t)) {
  return openRegistryOver(t, folder, await place.open(), { lease })
}

/** A registry on the same store, with a copy of a catalog. */
async function openClone(t: Test, place: Place, catalog: Catalog, lease?: Partial<LeaseOptions>) {
  const folder = scratch(t)
  await catalog.backup(join(folder, 'registry.sqlite'))
  return openOn(t, place, lease, folder)
}

/** Pauses of a registry that comes second: between two looks at the owner `look` is called, and its own lease is never renewed by itself. */
function looking(look: () => unknown = () => {}): LeaseOptions['pause'] {
  return async (ms, signal) => {
    if (ms === LOOK_MS) await look()
    else await endlessPause(ms, signal)
  }
}

/** Pauses of an owner between its renewals, which end when the test says so. */
class Renewals {
  #wake = () => {}
  #paused = Promise.withResolvers<void>()

  readonly pause: LeaseOptions['pause'] = (_ms, signal) =>
    new Promise((resolve, reject) => {
      this.#wake = resolve
      this.#paused.resolve()
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    })

  /** Resolves when the lease has been renewed. */
  async renew(): Promise<void> {
    this.#paused = Promise.withResolvers<void>()
    this.#wake()
    await this.#paused.promise
  }
}

const publishSeed = (registry: Parameters<typeof publish>[0], seed: number) =>
  publish(registry, [part(FILE, weights(seed))], { name: `acme/m${seed}` })

for (const kind of ['folder', 'bucket'] as const) {
  t.test(`${kind}: a copy of the catalog does not start beside the original`, async t => {
    const place = await placeOf(t, kind)
    const renewals = new Renewals()
    const first = await openOn(t, place, { pause: renewals.pause })
    await publishSeed(first.registry, 1)
    const pause = looking(() => renewals.renew())
    await t.rejects(openClone(t, place, first.catalog, { pause }), {
      ...USED,
      message: /another registry \(instance [0-9a-f]{30}\) uses this blob store/,
    })
    const { id } = await publishSeed(first.registry, 2)
    await t.rejects(openClone(t, place, first.catalog, { pause }), USED)
    const before = place.keys()
    t.strictSame((await first.registry.care.sweep({ dryRun: false })).deleted, [])
    t.strictSame(place.keys(), before)
    t.ok((await bytesOf(await first.registry.models.openReconstruct(id))).equals(weights(2)))
    await t.resolves(first.registry.care.ready())
    await first.registry.close()
    const next = await openClone(t, place, first.catalog)
    t.ok((await bytesOf(await next.registry.models.openReconstruct(id))).equals(weights(2)))
  })

  t.test(`${kind}: an owner elsewhere that is silent loses the lease, not its models`, async t => {
    const place = await placeOf(t, kind)
    const first = await openOn(t, place, { process: null })
    await publishSeed(first.registry, 1)
    const copied = join(scratch(t), 'copy.sqlite')
    await first.catalog.backup(copied)
    const later = await publishSeed(first.registry, 2)
    const before = place.keys()
    let pauses = 0
    const folder = scratch(t)
    cpSync(copied, join(folder, 'registry.sqlite'))
    const second = await openOn(t, place, { pause: looking(() => pauses++) }, folder)
    t.equal(pauses, STALE_MS / LOOK_MS + 1)
    t.strictSame(place.keys(), before, 'nothing was deleted')
    t.strictSame((await second.registry.care.sweep({ dryRun: false })).deleted, [])
    t.ok((await bytesOf(await second.registry.models.openReconstruct(later.id))).equals(weights(2)))

    await t.rejects(publishSeed(first.registry, 3), USED)
    await t.rejects(publishSeed(first.registry, 3), USED)
    await t.rejects(first.registry.models.remove(later.id), USED)
    await t.rejects(first.registry.care.sweep({ dryRun: false }), USED)
    await t.rejects(first.registry.care.ready(), USED)
    t.ok((await bytesOf(await first.registry.models.openReconstruct(later.id))).equals(weights(2)))
    await second.registry.care.ready()
    await second.registry.care.sweep({ dryRun: false })
    const { damaged } = await second.registry.care.scrub({ signal: new AbortController().signal })
    t.strictSame(damaged, [])
  })
}

t.test('an owner elsewhere that renews its lease is not disturbed', async t => {
  const place = await placeOf(t, 'bucket')
  const first = await Lease.take(await place.open(), { process: null, pause: endlessPause })
  let pauses = 0
  const pause = looking(() => ++pauses === 5 && first.renew())
  await t.rejects(Lease.take(await place.open(), { pause }), USED)
  t.equal(pauses, 5)
  await first.confirm()
  await first[Symbol.asyncDispose]()
})

t.test('who waits goes by how long the owner asked for', async t => {
  const place = await placeOf(t, 'folder')
  await Lease.take(await place.open(), { process: null, staleMs: 60_000, pause: endlessPause })
  let looks = 0
  const pause = looking(() => looks++)
  const next = await Lease.take(await place.open(), { staleMs: 6000, pause })
  t.equal(looks, 61)
  await next[Symbol.asyncDispose]()
})

t.test('who was killed on this machine is followed at once', async t => {
  const place = await placeOf(t, 'folder')
  const own = (await ownProcessMark())!
  // The number was given to another process since, or to none.
  for (const mark of [
    { ...own, began: '1' },
    { ...own, pid: 2 ** 22 + 1 },
  ]) {
    await Lease.take(await place.open(), { process: mark, pause: endlessPause })
    const pause = looking(() => t.fail('it does not wait'))
    const next = await Lease.take(await place.open(), { pause })
    await t.resolves(next.confirm())
    await next[Symbol.asyncDispose]()
  }
})

t.test('what counts is the clock of the store', async t => {
  const fake = await FakeS3.start()
  t.teardown(() => fake[Symbol.asyncDispose]())
  const open = () => openS3BlobStore(fake.options())
  const first = await Lease.take(await open(), { process: null, pause: endlessPause })
  const [record] = [...fake.bucket.objects].filter(([key]) => key.startsWith('owners/'))
  const ahead = new Date(Date.now() + 3_600_000)
  fake.bucket.objects.set(record![0], { ...record![1], modified: ahead })
  let pauses = 0
  const renewing = looking(() => ++pauses === 2 && first.renew())
  await t.rejects(Lease.take(await open(), { pause: renewing }), USED)
  await first.confirm()
  await first[Symbol.asyncDispose]()

  await Lease.take(await open(), { process: null, pause: endlessPause })
  const [old] = [...fake.bucket.objects].filter(([key]) => key.startsWith('owners/'))
  fake.bucket.objects.set(old![0], { ...old![1], modified: new Date(Date.now() - STALE_MS - 1000) })
  const pause = looking(() => t.fail('it does not wait'))
  const next = await Lease.take(await open(), { pause })
  await next[Symbol.asyncDispose]()
})

t.test('a renewal that fails proves nothing, and the next one may', async t => {
  const store = await openFolderBlobStore(t.testdir())
  let answers = true
  const blobs = new Proxy(store, {
    get: (target, name, proxy) => {
      const member = Reflect.get(target, name)
      if (member === target) return proxy
      if (typeof member !== 'function') return member
      if (name !== 'size') return member.bind(target)
      return (key: string) => {
        if (answers) return target.size(key)
        return Promise.reject(new RegistryError('storage-unavailable', 'no answer'))
      }
    },
  })
  const lease = await Lease.take(blobs, { process: null, pause: endlessPause })
  answers = false
  await t.rejects(lease.renew(), { code: 'storage-unavailable' })
  await t.rejects(lease.confirm(), { code: 'storage-unavailable' })
  lease.check()
  answers = true
  await lease.renew()
  await lease.confirm()
  answers = false
  await t.rejects(lease.renew(), { code: 'storage-unavailable' })
  // Taken over by somebody who found the record before the last one.
  const records: string[] = []
  for await (const { key } of store.list('owners/')) records.push(key)
  t.equal(records.length, 2)
  await store.delete([records.sort()[0]!])
  answers = true
  await t.rejects(lease.confirm(), USED)
  await t.rejects(lease.renew(), USED)
  t.throws(() => lease.check(), USED)
})

t.test(
  'a store that is taken over between a manifest and its row: the model is not lost',
  async t => {
    for (const at of [1, 2]) {
      const place = await placeOf(t, 'folder')
      const first = await openOn(t, place, { process: null })
      await publishSeed(first.registry, 1)
      const copy = join(scratch(t), 'copy.sqlite')
      await first.catalog.backup(copy)
      let asked = 0
      let second: Awaited<ReturnType<typeof openOn>> | undefined
      const authorized = async () => {
        if (++asked !== at) return
        const folder = scratch(t)
        cpSync(copy, join(folder, 'registry.sqlite'))
        second = await openOn(t, place, { pause: looking() }, folder)
      }
      const upload = publish(first.registry, [part(FILE, weights(2))], {
        name: 'acme/m2',
        authorized,
      })
      await t.rejects(upload, USED)
      const names = async () => {
        const { models } = await second!.registry.models.list({ limit: 10 })
        return models.map(({ name }) => name)
      }
      // Before its manifest there was nothing to adopt, after it a whole model.
      t.strictSame(await names(), at === 1 ? ['acme/m1'] : ['acme/m2', 'acme/m1'])
      await second!.registry.care.sweep({ dryRun: false })
      const scrubbed = await second!.registry.care.scrub({ signal: new AbortController().signal })
      t.strictSame(scrubbed.damaged, [])
    }
  },
)

t.test('a sweep leaves manifests that the catalog does not know, and what they name', async t => {
  const place = await placeOf(t, 'folder')
  const other = scratch(t)
  const first = await openOn(t, place)
  await publishSeed(first.registry, 1)
  const elsewhere = await openRegistryOver(t, scratch(t), await openFolderBlobStore(other))
  const model = await publishSeed(elsewhere.registry, 2)
  await elsewhere.close()
  copyModels(other, place.folder!)
  const before = place.keys()
  for (let i = 0; i < 2; i++) {
    t.strictSame((await first.registry.care.sweep({ dryRun: false })).deleted, [])
  }
  t.strictSame(place.keys(), before)
  await first.close()
  const again = await openOn(t, place, {}, first.folder)
  t.ok((await bytesOf(await again.registry.models.openReconstruct(model.id))).equals(weights(2)))
})

t.test('a manifest that cannot be read spares what was stored before it', async t => {
  const place = await placeOf(t, 'folder')
  const other = scratch(t)
  const first = await openOn(t, place)
  const elsewhere = await openRegistryOver(t, scratch(t), await openFolderBlobStore(other))
  await publishSeed(elsewhere.registry, 2)
  await elsewhere.close()
  copyModels(other, place.folder!)
  const [manifest] = globSync(join(other, 'manifests/*/*'))
  truncateSync(join(place.folder!, relative(other, manifest!)), 100)
  const before = place.keys()
  t.strictSame((await first.registry.care.sweep({ dryRun: false })).deleted, [])
  t.strictSame(place.keys(), before)
  // What came after it is none of its own.
  const later = await first.blobs.stage(`blobs/ab/ab${'0'.repeat(30)}`, one())
  await later.commit()
  const { deleted } = await first.registry.care.sweep({ dryRun: false })
  t.strictSame(
    deleted.map(({ key }) => key),
    [`blobs/ab/ab${'0'.repeat(30)}`],
  )
})

/** Puts what is stored in one folder into that of another store. */
function copyModels(from: string, to: string): void {
  for (const kind of ['blobs', 'manifests']) {
    cpSync(join(from, kind), join(to, kind), { recursive: true })
  }
}

async function* one() {
  yield Buffer.from('left')
}

t.test('a store that was copied while its owner lives opens when that stays silent', async t => {
  const [original, copy] = [scratch(t), scratch(t)]
  const first = await openRegistryOver(t, scratch(t), await openFolderBlobStore(original))
  const { id } = await publishSeed(first.registry, 1)
  cpSync(original, copy, { recursive: true })
  const folder = scratch(t)
  await first.catalog.backup(join(folder, 'registry.sqlite'))
  let looks = 0
  const pause = looking(() => looks++)
  const second = await openRegistryOver(t, folder, await openFolderBlobStore(copy), {
    lease: { pause },
  })
  t.equal(looks, STALE_MS / LOOK_MS + 1)
  t.ok((await bytesOf(await second.registry.models.openReconstruct(id))).equals(weights(1)))
  await t.resolves(first.registry.care.ready())
})

t.test('a catalog is not made again while a registry uses the store', async t => {
  const place = await placeOf(t, 'folder')
  const renewals = new Renewals()
  const first = await openOn(t, place, { pause: renewals.pause })
  await publishSeed(first.registry, 1)
  const catalog = await openSqliteCatalog(join(scratch(t), 'registry.sqlite'))
  const blobs = await place.open()
  const lease = { pause: looking(() => renewals.renew()) }
  await t.rejects(rebuildCatalog({ catalog, blobs }, { lease }), USED)
  t.strictSame((await catalog.list({ limit: 1 })).models, [])
  await first.registry.close()
  t.equal((await rebuildCatalog({ catalog, blobs })).models.length, 1)
  await catalog.close()
})
