import type { Catalog, ModelRecord } from '../../catalog/catalog.ts'
import type { RegistryError } from '../../errors.ts'
import { blobKey } from '../../storage/blob-key.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import { deleteBlobs, type OwnedStore } from '../holds/delete-blobs.ts'
import type { Holds } from '../holds/holds.ts'

/**
 * What a deleted model leaves behind where its revision pointed at it and older models have the same one: that the revision points at
 * nothing is in no manifest.
 */
interface Tombstone {
  readonly name: string
  readonly revision: string
  readonly createdAt: string
}

/** What deleting models takes. */
export interface DeletionDeps extends OwnedStore {
  readonly catalog: Catalog
  readonly holds: Pick<Holds, 'locks'>
}

/** Claimed from a tombstone to the deletion that it is for: in between it looks like one that says nothing. */
const SUBJECT = 'tombstones'

/** Deletes a model from the catalog, after it has stored its tombstone if it needs one. Rejects as `Catalog.deleteModel`. */
export async function deleteModel(stores: DeletionDeps, model: ModelRecord): Promise<void> {
  await using _turn = await stores.holds.locks.acquire(SUBJECT)
  await leaveTombstone(stores, model)
  await stores.catalog.deleteModel(model.id)
}

async function leaveTombstone({ catalog, blobs }: DeletionDeps, model: ModelRecord): Promise<void> {
  const { id, name, revision, createdAt } = model
  if ((await catalog.resolve(name, revision))?.id !== id) return
  const { models } = await catalog.list({ name, revision, limit: 2 })
  if (models.length < 2) return
  const tombstone: Tombstone = { name, revision, createdAt }
  const body = async function* () {
    yield Buffer.from(JSON.stringify(tombstone))
  }
  await (await blobs.stage(blobKey('tombstones', id), body())).commit()
}

/** Every tombstone in the store that can be understood: one that has rotted says nothing, and keeps nobody from what is sound. */
export async function readTombstones(blobs: BlobStore): Promise<(Tombstone & { key: string })[]> {
  const tombstones: (Tombstone & { key: string })[] = []
  for await (const { key, size } of blobs.list('tombstones/')) {
    // Nothing checks them, so that no copy is good enough.
    const bytes = await blobs.upstream
      .read(key, { start: 0, end: size })
      .catch((error: RegistryError) => {
        // Deleted, and listed all the same: some lists are behind.
        if (error.code === 'blob-missing') return null
        throw error
      })
    const tombstone = bytes && parseTombstone(bytes)
    if (tombstone) tombstones.push({ key, ...tombstone })
  }
  return tombstones
}

function parseTombstone(bytes: Uint8Array): Tombstone | null {
  try {
    const { name, revision, createdAt } = JSON.parse(Buffer.from(bytes).toString()) as Tombstone
    const isWhole = [name, revision, createdAt].every(member => typeof member === 'string')
    return isWhole ? { name, revision, createdAt } : null
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

/** Deletes the tombstones that say nothing any more: their revision points at something again, or nothing older is left. */
export async function sweepTombstones(stores: DeletionDeps): Promise<void> {
  const { catalog, blobs, holds } = stores
  await using _turn = await holds.locks.acquire(SUBJECT)
  for (const { key, name, revision } of await readTombstones(blobs)) {
    const { models } = await catalog.list({ name, revision, limit: 1 })
    const isSpent = models.length === 0 || (await catalog.resolve(name, revision)) !== null
    if (isSpent) await deleteBlobs(stores, [key])
  }
}
