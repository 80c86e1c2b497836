import type { Catalog } from '../../catalog/catalog.ts'
import { deltaFilename, MANIFEST_FILE } from '../../catalog/file-names.ts'
import type { Damage, ModelRecord } from '../../catalog/records.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import type { Room } from '../../storage/disk-room.ts'
import { isNear } from '../../storage/near-store.ts'
import type { ByteSource } from '../../workers/byte-source.ts'
import { BlockError } from '../../workers/errors.ts'
import type { BadBlobs } from '../holds/holds.ts'
import { checkedSource, readChecked } from '../models/checked-reads.ts'
import type { OpenedModels } from '../models/opened-models.ts'

/**
 * Keeps track of bad blocks. A blob with one is marked in the catalog, which shows it for all models that need the blob. If the catalog knows another
 * blob of the same content, that one is read from then on.
 */
export class Damages {
  readonly #catalog: Catalog
  readonly #blobs: BlobStore
  readonly #room: Room
  readonly #bad: BadBlobs
  #badBlocks = 0

  /** `room`: where marks are written on a full disk. */
  constructor({
    catalog,
    blobs,
    room,
    badBlobs,
  }: {
    catalog: Catalog
    blobs: BlobStore
    room: Room
    badBlobs: BadBlobs
  }) {
    this.#catalog = catalog
    this.#blobs = blobs
    this.#room = room
    this.#bad = badBlobs
  }

  /** Bad blocks that were met since the start, each as often as it was read. */
  get badBlocks(): number {
    return this.#badBlocks
  }

  /** The blob to read for `key`: itself, or a copy of it that is not known to be bad. */
  standIn(key: string): string {
    return this.#bad.standIn(key)
  }

  /**
   * Handles a failed read: see `ByteSource.retry`. A bad block is read once more from the store itself before the blob is marked.
   * Rejects as the catalog does.
   */
  async failed(error: unknown, tries: number): Promise<boolean> {
    if (!(error instanceof BlockError)) return false
    const bad = this.standIn(error.blob)
    if (tries === 0) {
      if (isNear(this.#blobs)) await this.#blobs.evict(bad, error.offset)
      return true
    }
    this.#badBlocks++
    await this.mark(bad, error.offset)
    const copy = await this.#catalog.copyOf(error.blob)
    await this.#bad.replace(error.blob, copy?.key ?? null)
    return copy !== null && copy.key !== bad
  }

  /** Marks a blob with a bad block at `offset`. One row changes, however many models need the blob. */
  async mark(key: string, offset: number): Promise<void> {
    await this.#bad.mark(key)
    const damage = { offset, at: new Date().toISOString() }
    await this.#room.lend(() => this.#catalog.setBlobDamage(key, damage))
  }

  /** Clears the mark of a blob that was read whole and is sound. */
  async clear(key: string): Promise<void> {
    if (!(await this.#bad.has(key))) return
    await this.#room.lend(() => this.#catalog.setBlobDamage(key, null))
    await this.#bad.clear(key)
  }
}

/** The fields that the names of a model's blobs are made of. */
export type Names = Pick<ModelRecord, 'name' | 'delta' | 'files'>

/** The name of a blob in its model: the path of a file, or what a client downloads the delta as. */
export function fileOf({ name, delta, files }: Names, key: string): Damage['file'] {
  if (key === delta) return deltaFilename(name)
  return files.find(({ blob }) => blob === key)?.path ?? MANIFEST_FILE
}

/**
 * Re-reads a block that failed its checksum during a publication, where reads are not tried again, so that it is evicted from the cache or marked as
 * damaged. Does not throw for a bad block: the first error reports it.
 */
export async function confirmDamage(
  deps: { catalog: Catalog; models: OpenedModels; source: ByteSource },
  error: unknown,
): Promise<void> {
  // The error may have been translated already.
  const bad = [error, (error as Error).cause].find(each => each instanceof BlockError)
  if (!bad) return
  const { blob, offset } = bad
  const [owner] = await deps.catalog.modelsOf(blob, 1)
  if (!owner) return
  try {
    const { sums } = await deps.models.open(owner)
    const checked = checkedSource(deps.source, sums)
    await readChecked(checked, { blob, start: offset, end: offset + 1 })
  } catch {
    // The next read reports it.
  }
}
