import { createHash } from 'node:crypto'
import type { BlobRecord, Catalog, ModelRecord } from '../catalog/catalog.ts'
import { RegistryError } from '../errors.ts'
import { blobKey, nameOfKey } from '../storage/blob-key.ts'
import type { BlobInfo, BlobStore } from '../storage/blob-store.ts'
import { BlockError } from '../workers/block-error.ts'
import { type ManifestHead, readManifestHead, toRecord } from './manifest.ts'
import { readTombstones } from './tombstones.ts'

/** Manifests that are read at once. */
const WIDTH = 16

interface Stores {
  readonly catalog: Catalog
  readonly blobs: BlobStore
}

/** A manifest in the store that the catalog does not know and that makes no model. */
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
 * Makes a new catalog the one of a store, and adopts all that is in it. Rejects `catalog-failed` for a catalog that has models.
 */
export async function rebuildCatalog(stores: Stores): Promise<Adoption> {
  const { catalog, blobs } = stores
  if (await hasModels(catalog)) {
    throw new RegistryError(
      'catalog-failed',
      'expected no catalog, or an empty one: this one has models',
    )
  }
  const [identity] = await marksOf(blobs)
  if (identity !== undefined) await catalog.setIdentity(identity)
  else await mark(blobs, await catalog.identity())
  return adoptModels(stores)
}

/**
 * Takes up the models whose manifests are in the store and not in the catalog, as after a crash between the two, or when the catalog is
 * an older copy: they were proven and stored in full before their manifest was.
 */
export async function adoptModels({ catalog, blobs }: Stores): Promise<Adoption> {
  const found = await unknownManifests(catalog, blobs)
  const unadopted = found.filter((head): head is Unadopted => 'why' in head)
  const heads = found.filter((head): head is Head => 'model' in head)
  // Times of publications grow: a parent comes before its deltas, and of one revision the newest comes last.
  heads.sort((a, b) => (a.model.createdAt < b.model.createdAt ? -1 : 1))
  const models: ModelRecord[] = []
  for (const head of heads) {
    const why = await missing(blobs, head)
    const record = why === null ? await insert(catalog, head) : null
    if (record) models.push(record)
    else {
      const keys = head.blobs.map(({ key }) => key)
      unadopted.push({ manifest: head.record.key, why: why ?? 'its parent is gone', blobs: keys })
    }
  }
  for (const { name, revision, createdAt } of await readTombstones(blobs)) {
    await catalog.dropRevision(name, revision, createdAt)
  }
  return { models, unadopted }
}

/** What a manifest says, and what the catalog will know of the manifest itself. */
interface Head extends ManifestHead {
  readonly record: BlobRecord
}

type Found = Head | Unadopted

async function unknownManifests(catalog: Catalog, blobs: BlobStore): Promise<Found[]> {
  const found: Promise<Found | null>[] = []
  for await (const info of blobs.list('manifests/')) {
    if (await catalog.hasBlob(info.key)) continue
    const head = readHead(blobs, info)
    // It may fail while the list goes on.
    head.catch(() => {})
    found.push(head)
    if (found.length % WIDTH === 0) await Promise.all(found)
  }
  return (await Promise.all(found)).filter(head => head !== null)
}

/** Null for a manifest that was deleted and is listed all the same: some lists are behind. */
async function readHead(blobs: BlobStore, { key, size }: BlobInfo): Promise<Found | null> {
  try {
    // Copies that are nearer may be bad, and who reads here does not ask twice.
    const bytes = await blobs.origin.read(key, { start: 0, end: size })
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    return { ...(await readManifestHead(key, bytes)), record: { key, size, sha256 } }
  } catch (error) {
    if (error instanceof BlockError) return { manifest: key, why: error.message, blobs: null }
    if ((error as RegistryError).code === 'blob-missing') return null
    throw error
  }
}

/** What a model lacks in the store; null where it has everything. */
async function missing(blobs: BlobStore, head: ManifestHead): Promise<string | null> {
  for (const { key, size } of head.blobs) {
    const found = await blobs.size(key).catch((error: RegistryError) => {
      if (error.code !== 'blob-missing') throw error
      return null
    })
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
  const body = async function* () {
    yield Buffer.from(`${identity}\n`)
  }
  await (await blobs.stage(blobKey('catalogs', identity), body())).commit()
}

async function hasModels(catalog: Catalog): Promise<boolean> {
  return (await catalog.list({ limit: 1 })).models.length > 0
}

async function hasManifests(blobs: BlobStore): Promise<boolean> {
  for await (const _manifest of blobs.list('manifests/')) return true
  return false
}
