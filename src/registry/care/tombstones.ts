import type { Catalog } from '../../catalog/catalog.ts'
import type { ModelRecord } from '../../catalog/records.ts'
import type { RegistryError } from '../../errors.ts'
import { blobKey } from '../../storage/blob-key.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import { upstreamOf } from '../../storage/near-store.ts'
import { putBlob } from '../../storage/put.ts'
import { deleteBlobs, type OwnedStore } from '../holds/delete-blobs.ts'
import type { Holds } from '../holds/holds.ts'

/**
 * Left behind by a deleted model whose revision pointed at it while older models of the revision remain. Without it, a catalog rebuilt from
 * manifests would let the revision point at an older model.
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

/** Locked from writing a tombstone to deleting its model: in between, a sweep would take the tombstone for a spent one. */
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
  await putBlob(blobs, blobKey('tombstones', id), Buffer.from(JSON.stringify(tombstone)))
}

/** All tombstones in the store that can be read. A rotten one is left out. */
export async function readTombstones(blobs: BlobStore): Promise<(Tombstone & { key: string })[]> {
  const tombstones: (Tombstone & { key: string })[] = []
  for await (const { key, size } of blobs.list('tombstones/')) {
    // They have no checksum, so a cached copy is not good enough.
    const bytes = await upstreamOf(blobs)
      .read(key, { start: 0, end: size })
      .catch((error: RegistryError) => {
        // It was deleted but is still listed: listings may be stale.
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

/** Deletes spent tombstones: their revision points at a model again, or no older model is left. */
export async function sweepTombstones(stores: DeletionDeps): Promise<void> {
  const { catalog, blobs, holds } = stores
  await using _turn = await holds.locks.acquire(SUBJECT)
  for (const { key, name, revision } of await readTombstones(blobs)) {
    const { models } = await catalog.list({ name, revision, limit: 1 })
    const isSpent = models.length === 0 || (await catalog.resolve(name, revision)) !== null
    if (isSpent) await deleteBlobs(stores, [key])
  }
}
