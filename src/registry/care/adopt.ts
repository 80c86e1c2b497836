import type { Catalog } from '../../catalog/catalog.ts'
import type { ModelRecord } from '../../catalog/records.ts'
import { RegistryError } from '../../errors.ts'
import { blobKey, kindOf, nameOfKey } from '../../storage/blob-key.ts'
import type { BlobInfo, BlobStore } from '../../storage/blob-store.ts'
import { type Room, UNLIMITED } from '../../storage/disk-room.ts'
import { putBlob } from '../../storage/put.ts'
import { sizeIfThere } from '../../storage/size.ts'
import { mapOrdered } from '../../workers/map-ordered.ts'
import { Lease, type LeaseOptions } from '../holds/lease.ts'
import type { Log } from '../log.ts'
import { type ManifestHead, toRecord } from '../models/manifest.ts'
import { type Head, keysOf, readHeads } from './strays.ts'
import { survey } from './survey.ts'
import { readTombstones } from './tombstones.ts'

/** Models whose blobs are looked up at once. */
const WIDTH = 16

interface Stores {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  /** Room of the disk that the catalog is on. */
  readonly room?: Room | undefined
}

/** A manifest in the store that the catalog does not know and that could not be adopted. */
export interface Unadopted {
  readonly manifest: string
  readonly why: string
  /** The blobs that it names; null where it cannot be read. */
  readonly blobs: readonly string[] | null
}

export interface Adoption {
  readonly models: readonly ModelRecord[]
  readonly unadopted: readonly Unadopted[]
}

/**
 * Makes sure that the store belongs to this catalog: a store that nobody has marked gets the mark of its first one.
 * Rejects `catalog-failed` for a store of another catalog, or one with models in it and a catalog without: opened by the wrong one, a store
 * would be swept clean.
 */
export async function claimStore({ catalog, blobs }: Stores): Promise<void> {
  const identity = await catalog.identity()
  const marks = await marksOf(blobs)
  if (marks.includes(identity)) return
  const isNew = marks.length === 0 && ((await hasModels(catalog)) || !(await hasManifests(blobs)))
  if (!isNew) {
    throw new RegistryError(
      'catalog-failed',
      'the blob store belongs to another catalog; if that is lost, wdelta rebuild makes it again from the store',
    )
  }
  await mark(blobs, identity)
}

/**
 * Makes a new catalog the one of a store, and adopts all that is in it. Rejects `catalog-failed` for a catalog that has models, and
 * `store-in-use` while a registry uses the store.
 */
export async function rebuildCatalog(
  stores: Stores,
  options: { log?: Log; lease?: Partial<LeaseOptions> } = {},
): Promise<Adoption> {
  const { catalog, blobs } = stores
  if (await hasModels(catalog)) {
    throw new RegistryError(
      'catalog-failed',
      'expected no catalog, or an empty one: this one has models',
    )
  }
  const { log, lease } = options
  await using _lease = await Lease.take(blobs, { ...lease, log })
  const [identity] = await marksOf(blobs)
  if (identity !== undefined) await catalog.setIdentity(identity)
  else await mark(blobs, await catalog.identity())
  const { unknown } = await survey(catalog, blobs)
  return adoptModels(stores, unknown)
}

/**
 * Takes up the models whose manifests are in the store and not in the catalog, as after a crash between the two, or when the catalog is
 * an older copy: they were proven and stored in full before their manifest was. `unknown`: see {@link survey}.
 */
export async function adoptModels(
  { catalog, blobs, room = UNLIMITED }: Stores,
  unknown: readonly BlobInfo[],
): Promise<Adoption> {
  const manifests = unknown.filter(({ key }) => kindOf(key) === 'manifests')
  const heads: Head[] = []
  const unadopted: Unadopted[] = []
  for await (const head of readHeads(blobs, manifests)) {
    if (!('manifest' in head)) heads.push(head)
    else unadopted.push({ manifest: head.manifest.key, why: head.why, blobs: null })
  }
  // Times of publications grow: a parent comes before its deltas, and of one revision the newest comes last.
  heads.sort((a, b) => (a.model.createdAt < b.model.createdAt ? -1 : 1))
  const models: ModelRecord[] = []
  const lacking = mapOrdered(heads, WIDTH, async head => ({ head, why: await lacks(blobs, head) }))
  for await (const { head, why } of lacking) {
    const record = why === null ? await room.lend(() => insert(catalog, head)) : null
    if (record) models.push(record)
    else {
      const reason = why ?? 'its parent is gone'
      unadopted.push({ manifest: head.record.key, why: reason, blobs: keysOf(head) })
    }
  }
  for (const { name, revision, createdAt } of await readTombstones(blobs)) {
    await catalog.dropRevision(name, revision, createdAt)
  }
  return { models, unadopted }
}

/** Why a model cannot be adopted: what is missing in the store. Null if nothing is. */
async function lacks(blobs: BlobStore, head: ManifestHead): Promise<string | null> {
  for (const { key, size } of head.blobs) {
    const found = await sizeIfThere(blobs, key)
    if (found === null) return `blob ${key} is missing`
    if (found !== size) return `blob ${key} has ${found} bytes, expected ${size}`
  }
  return null
}

/** Null where the parent that a delta needs is not there. */
async function insert(
  catalog: Catalog,
  { model, blobs, record: manifest }: Head,
): Promise<ModelRecord | null> {
  const hasParent = model.parent !== null && (await catalog.model(model.parent)) !== null
  if (model.kind === 'delta' && !hasParent) return null
  const parent = hasParent ? model.parent : null
  const record = toRecord({ ...model, parent }, manifest, blobs)
  await catalog.insertModel(record, [manifest, ...blobs])
  return record
}

async function marksOf(blobs: BlobStore): Promise<string[]> {
  const marks: string[] = []
  for await (const { key } of blobs.list('catalogs/')) marks.push(nameOfKey(key))
  return marks
}

async function mark(blobs: BlobStore, identity: string): Promise<void> {
  await putBlob(blobs, blobKey('catalogs', identity), Buffer.from(`${identity}\n`))
}

async function hasModels(catalog: Catalog): Promise<boolean> {
  return (await catalog.list({ limit: 1 })).models.length > 0
}

async function hasManifests(blobs: BlobStore): Promise<boolean> {
  for await (const _manifest of blobs.list('manifests/')) return true
  return false
}
