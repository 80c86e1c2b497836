import type { Catalog } from '../catalog/catalog.ts'
import type { BlobInfo, BlobStore } from '../storage/blob-store.ts'
import { deleteBlobs } from './delete-blobs.ts'
import { forgetBlobs, unreferencedBlobs } from './loose-blobs.ts'
import type { Pins } from './pins.ts'
import type { Claims } from './publication.ts'
import type { SweepReport } from './registry.ts'
import { sweepTombstones } from './tombstones.ts'

/** Blobs that a report names; it counts all. */
const MAX_REPORTED = 1000

export interface SweepDeps {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  readonly pins: Pins
  readonly claims: Claims
  /** What an upload left is not deleted before it is so old, in milliseconds. */
  readonly graceMs: number
  /** Blobs that the catalog does not know are spared if they are older than this: some of their manifests could not be read. */
  readonly spareBefore: Date | null
}

/**
 * Deletes the blobs that no model refers to and that nothing under way holds, and what uploads left that nobody goes on with. The catalog
 * forgets a blob before the store deletes it, so that no publication can take it up in between. A manifest goes first: one that the
 * catalog does not know would be taken for a model's. That the catalog can be written is seen before anything else goes: see {@link Catalog}.
 */
export async function sweep(deps: SweepDeps, dryRun: boolean): Promise<SweepReport> {
  const { catalog, blobs, pins, graceMs } = deps
  const before = new Date(Date.now() - graceMs)
  const unknown = await unknownBlobs(deps, before)
  const unreferenced = (await unreferencedBlobs(catalog)).filter(({ key }) => !pins.has(key))
  const keys = unreferenced.map(({ key }) => key)
  if (!dryRun) await blobs.delete(keys.filter(key => key.startsWith('manifests/')))
  const forgotten = new Set(dryRun ? keys : await forgetBlobs(catalog, keys))
  // A publication that saw the blob still known pinned it before: its row will make it known again.
  const freed = unreferenced.filter(({ key }) => forgotten.has(key) && !pins.has(key))
  const deleted = [...freed, ...unknown].map(({ key, size }) => ({ key, size }))
  if (!dryRun) {
    await deleteBlobs(
      blobs,
      deleted.map(({ key }) => key),
    )
    await sweepTombstones(deps)
  }
  for (const { key, size } of await blobs.sweepStaged(before, dryRun)) deleted.push({ key, size })
  return {
    dryRun,
    deleted: deleted.slice(0, MAX_REPORTED),
    deletedTotal: deleted.length,
    bytes: deleted.reduce((sum, { size }) => sum + size, 0),
  }
}

/** Blobs that the catalog does not know, last changed before `before`. */
async function unknownBlobs(
  { catalog, blobs, pins, spareBefore }: SweepDeps,
  before: Date,
): Promise<BlobInfo[]> {
  const unknown: BlobInfo[] = []
  for (const kind of ['blobs/', 'manifests/']) {
    for await (const blob of blobs.list(kind)) {
      const { key, modified } = blob
      if (modified >= before || (spareBefore && modified < spareBefore)) continue
      if (pins.has(key) || (await catalog.hasBlob(key))) continue
      // It may have been pinned, committed and given its row while the catalog was asked.
      if (pins.has(key) || (await catalog.hasBlob(key))) continue
      unknown.push(blob)
    }
  }
  return unknown
}
