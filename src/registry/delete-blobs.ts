import type { BlobStore } from '../storage/blob-store.ts'

/** Deletes blobs, manifests before what they name: one that stays behind alone would be taken for that of a model. Rejects as the store does. */
export async function deleteBlobs(blobs: BlobStore, keys: readonly string[]): Promise<void> {
  const isManifest = (key: string) => key.startsWith('manifests/')
  await blobs.delete(keys.filter(isManifest))
  await blobs.delete(keys.filter(key => !isManifest(key)))
}
