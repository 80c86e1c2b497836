import type { Catalog } from '../../catalog/catalog.ts'
import { kindOf } from '../../storage/blob-key.ts'
import type { BlobInfo } from '../../storage/blob-store.ts'
import type { Room } from '../../storage/disk-room.ts'
import { deleteBlobs, type OwnedStore } from '../holds/delete-blobs.ts'
import type { Holds, Pins } from '../holds/holds.ts'
import type { SweepReport } from '../registry.ts'
import { forgetBlobs, unreferencedBlobs } from './loose-blobs.ts'
import type { Strays } from './strays.ts'
import { type Survey, survey } from './survey.ts'
import { sweepTombstones } from './tombstones.ts'

/** Most blobs that a report names; it counts all. */
const MAX_REPORTED = 1000

export interface SweepDeps extends OwnedStore {
  readonly catalog: Catalog
  readonly holds: Pick<Holds, 'pins' | 'locks'>
  readonly room: Room
  readonly strays: Strays
  /** Manifests of failed publications that could not be deleted at once: the only unknown ones that go. */
  readonly abandoned: Set<string>
  /** Milliseconds before leftovers of an upload may be deleted. */
  readonly graceMs: number
}

/**
 * Deletes blobs that no model refers to and that nothing pins, and leftovers of abandoned uploads. The catalog forgets a blob before the store
 * deletes it, so that no publication can take it up in between. Manifests go first: one that the catalog does not know would be taken for a
 * model's. The catalog is written before anything else is deleted: see {@link Catalog}. Blobs that unknown manifests name stay: see {@link Strays}.
 * `surveyed`: the result of a survey, or it is made now.
 */
export async function sweep(
  deps: SweepDeps,
  dryRun: boolean,
  surveyed?: Survey,
): Promise<SweepReport> {
  const { catalog, blobs, lease, room, abandoned, graceMs } = deps
  const { pins } = deps.holds
  lease.check()
  const before = new Date(Date.now() - graceMs)
  const { unknown: found } = surveyed ?? (await survey(catalog, blobs))
  const unknown = await unneeded(deps, found, before)
  const unreferenced = await unpinned(pins, await unreferencedBlobs(catalog))
  const keys = unreferenced.map(({ key }) => key)
  if (!dryRun) await deleteBlobs(deps, keys.filter(isManifest))
  // In batches: those that are forgotten stay forgotten even if there is no room for the next ones.
  const lent = {
    forgetBlobs: (some: readonly string[]) => room.lend(() => catalog.forgetBlobs(some)),
  }
  const forgotten = new Set(dryRun ? keys : await forgetBlobs(lent, keys))
  // A publication that found the blob in the catalog had pinned it: its row will add the blob again.
  const freed = await unpinned(
    pins,
    unreferenced.filter(({ key }) => forgotten.has(key)),
  )
  const deleted = [...freed, ...unknown].map(({ key, size }) => ({ key, size }))
  if (!dryRun) {
    await deleteBlobs(
      deps,
      deleted.map(({ key }) => key),
    )
    for (const { key } of deleted) abandoned.delete(key)
    await sweepTombstones(deps)
    await lease.confirm()
  }
  for (const { key, size } of await blobs.sweepStaged(before, dryRun)) deleted.push({ key, size })
  return {
    dryRun,
    deleted: deleted.slice(0, MAX_REPORTED),
    deletedTotal: deleted.length,
    bytes: deleted.reduce((sum, { size }) => sum + size, 0),
  }
}

/** Those of `blobs` that nothing under way holds. */
async function unpinned<T extends { readonly key: string }>(
  pins: Pins,
  blobs: readonly T[],
): Promise<T[]> {
  const free: T[] = []
  for (const blob of blobs) if (!(await pins.has(blob.key))) free.push(blob)
  return free
}

/** Blobs unknown to the catalog that nothing needs, last changed before `before`. */
async function unneeded(
  { catalog, blobs, holds, strays, abandoned }: SweepDeps,
  found: readonly BlobInfo[],
  before: Date,
): Promise<BlobInfo[]> {
  const unknown: BlobInfo[] = []
  for (const blob of found) {
    const { key } = blob
    if ((await holds.pins.has(key)) || (await catalog.hasBlob(key))) continue
    // Checked again: it may have been pinned, committed and given a row during the first check.
    if ((await holds.pins.has(key)) || (await catalog.hasBlob(key))) continue
    unknown.push(blob)
  }
  const isStray = ({ key }: BlobInfo) => isManifest(key) && !abandoned.has(key)
  const isClaimed = await strays.claims(blobs, unknown.filter(isStray))
  return unknown.filter(blob => !isStray(blob) && blob.modified < before && !isClaimed(blob))
}

function isManifest(key: string): boolean {
  return kindOf(key) === 'manifests'
}
