import type { RegistryError } from '../errors.ts'
import type { BlobStore } from './blob-store.ts'

/** Bytes of a blob; null for one that the store does not have. Rejects as the store does for any other failure. */
export async function sizeIfThere(blobs: BlobStore, key: string): Promise<number | null> {
  return blobs.size(key).catch((error: RegistryError) => {
    if (error.code === 'blob-missing') return null
    throw error
  })
}
