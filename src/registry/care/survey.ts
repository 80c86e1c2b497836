import { setImmediate } from 'node:timers/promises'
import type { Catalog } from '../../catalog/catalog.ts'
import type { BlobInfo, BlobStore } from '../../storage/blob-store.ts'

/** Keys of one page, read in one turn of the event loop. */
const PAGE = 1000

/** The differences between store and catalog. Both may have changed since. */
export interface Survey {
  /** Blobs, then manifests. */
  readonly unknown: readonly BlobInfo[]
  readonly missing: readonly string[]
}

/**
 * Compares the store with the catalog in one pass over each. Blobs are listed before manifests, so that a manifest which was there before a
 * listed blob's is in the list too. Rejects as the two do.
 */
export async function survey(catalog: Catalog, blobs: BlobStore): Promise<Survey> {
  const known = await knownKeys(catalog)
  const unknown: BlobInfo[] = []
  for (const kind of ['blobs/', 'manifests/']) {
    // Comparing names is far faster than looking each blob up.
    for await (const info of blobs.list(kind, key => !known.delete(key))) unknown.push(info)
  }
  return { unknown, missing: [...known] }
}

async function knownKeys(catalog: Catalog): Promise<Set<string>> {
  const known = new Set<string>()
  for (let after = ''; ; ) {
    const page = await catalog.blobKeys(after, PAGE)
    for (const key of page) known.add(key)
    if (page.length < PAGE) return known
    after = page.at(-1)!
    await setImmediate()
  }
}
