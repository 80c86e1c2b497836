import type { Catalog } from '../catalog/catalog.ts'
import type { BlobStore } from '../storage/blob-store.ts'
import type { Pins } from './publication.ts'
import type { SweepReport } from './registry.ts'

/** Prefix of all keys. */
const BLOBS = 'blobs/'

/**
 * Deletes the blobs that no model refers to and that no publication holds, and what uploads of an earlier process left staged
 * (before `started`). The catalog forgets a blob before the store deletes it, so that no publication can take it up in between.
 */
export async function sweep(
  {
    catalog,
    blobs,
    pins,
    started,
  }: { catalog: Catalog; blobs: BlobStore; pins: Pins; started: Date },
  dryRun: boolean,
): Promise<SweepReport> {
  const deleted: { key: string; size: number }[] = []
  const unreferenced = (await catalog.unreferencedBlobs()).filter(({ key }) => !pins.has(key))
  const keys = unreferenced.map(({ key }) => key)
  const forgotten = new Set(dryRun ? keys : await catalog.forgetBlobs(keys))
  for (const { key, size } of unreferenced) {
    // A publication that saw the blob still known pinned it before: its row will make it known again.
    if (forgotten.has(key) && !pins.has(key)) deleted.push({ key, size })
  }
  for await (const { key, size } of blobs.list(BLOBS)) {
    if (forgotten.has(key) || pins.has(key) || (await catalog.hasBlob(key))) continue
    // It may have been pinned, committed and given its row while the catalog was asked.
    if (pins.has(key) || (await catalog.hasBlob(key))) continue
    deleted.push({ key, size })
  }
  if (!dryRun) await blobs.delete(deleted.map(({ key }) => key))
  for (const { key, size } of await blobs.sweepStaged(started, dryRun)) deleted.push({ key, size })
  return { dryRun, deleted, bytes: deleted.reduce((sum, { size }) => sum + size, 0) }
}
