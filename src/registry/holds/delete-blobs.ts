import { kindOf } from '../../storage/blob-key.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import type { Lease } from './lease.ts'

/** Most keys deleted between two checks of the lease. */
const BATCH = 200

/** A store, and the right to write to it. */
export interface OwnedStore {
  readonly blobs: BlobStore
  readonly lease: Lease
}

/**
 * Deletes blobs, manifests before what they name: one that stays behind alone would be taken for that of a model. All that the registry
 * deletes goes through here: a process that has lost the lease deletes nothing. Rejects `store-in-use` then, and as the store does.
 */
export async function deleteBlobs(
  { blobs, lease }: OwnedStore,
  keys: readonly string[],
): Promise<void> {
  const isManifest = (key: string) => kindOf(key) === 'manifests'
  for (const group of [keys.filter(isManifest), keys.filter(key => !isManifest(key))]) {
    for (let at = 0; at < group.length; at += BATCH) {
      await lease.confirm()
      await blobs.delete(group.slice(at, at + BATCH))
    }
  }
}
