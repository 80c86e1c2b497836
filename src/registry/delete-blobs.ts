import type { BlobStore } from '../storage/blob-store.ts'

/** Deletes blobs, manifests before what they name: one that stays behind alone would be taken for that of a model. Rejects as the store does. */
export async function deleteBlobs(blobs: BlobStore, keys: readonly string[]): Promise<void> {
  const isManifest = (key: string) => key.startsWith('manifests/')
  const others = keys.filter(key => !isManifest(key))
  const manifests = keys.filter(isManifest)
  for (const some of [manifests, others]) if (some.length > 0) await blobs.delete(some)
}
