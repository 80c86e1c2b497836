import type { Catalog } from '../catalog/catalog.ts'
import type { BlobInfo, BlobStore } from '../storage/blob-store.ts'
import type { Pins } from './publication.ts'
import type { SweepReport } from './registry.ts'
import { spentTombstones } from './tombstones.ts'

export interface SweepDeps {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  readonly pins: Pins
  /** What an upload left is not deleted before it is so old, in milliseconds. */
  readonly graceMs: number
  /** Blobs that the catalog does not know are spared if they are older than this: some of their manifests could not be read. */
  readonly spareBefore: Date | null
}

/**
 * Deletes the blobs that no model refers to and that no publication holds, and what uploads left that nobody goes on with. The catalog
 * forgets a blob before the store deletes it, so that no publication can take it up in between. A manifest goes first: one that the
 * catalog does not know would be taken for a model's.
 */
export async function sweep(deps: SweepDeps, dryRun: boolean): Promise<SweepReport> {
  const { catalog, blobs, pins, graceMs } = deps
  const before = new Date(Date.now() - graceMs)
  const deleted: { key: string; size: number }[] = []
  const unreferenced = (await catalog.unreferencedBlobs()).filter(({ key }) => !pins.has(key))
  const keys = unreferenced.map(({ key }) => key)
  if (!dryRun) await blobs.delete(keys.filter(key => key.startsWith('manifests/')))
  const forgotten = new Set(dryRun ? keys : await catalog.forgetBlobs(keys))
  for (const { key, size } of unreferenced) {
    // A publication that saw the blob still known pinned it before: its row will make it known again.
    if (forgotten.has(key) && !pins.has(key)) deleted.push({ key, size })
  }
  for (const kind of ['blobs/', 'manifests/']) {
    for await (const { key, size } of orphans(deps, kind, before, forgotten)) {
      deleted.push({ key, size })
    }
  }
  const spent = await spentTombstones({ catalog, blobs })
  if (!dryRun) await blobs.delete([...deleted.map(({ key }) => key), ...spent])
  for (const { key, size } of await blobs.sweepStaged(before, dryRun)) deleted.push({ key, size })
  return { dryRun, deleted, bytes: deleted.reduce((sum, { size }) => sum + size, 0) }
}

/** Blobs of a kind that the catalog does not know, last changed before `before`. */
async function* orphans(
  { catalog, blobs, pins, spareBefore }: SweepDeps,
  kind: string,
  before: Date,
  forgotten: ReadonlySet<string>,
): AsyncGenerator<BlobInfo> {
  for await (const blob of blobs.list(kind)) {
    const { key, modified } = blob
    if (modified >= before || (spareBefore && modified < spareBefore)) continue
    if (forgotten.has(key) || pins.has(key) || (await catalog.hasBlob(key))) continue
    // It may have been pinned, committed and given its row while the catalog was asked.
    if (pins.has(key) || (await catalog.hasBlob(key))) continue
    yield blob
  }
}
