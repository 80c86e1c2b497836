import type { Catalog } from '../../catalog/catalog.ts'
import { blobKey } from '../../storage/blob-key.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import type { Room } from '../../storage/disk-room.ts'
import { upstreamOf } from '../../storage/near-store.ts'

/** Milliseconds for which the store's answer is reused: anybody may ask, and each request to a bucket costs money. */
const VERDICT_MS = 1000

/**
 * Whether catalog and store answer and there is room to write. The catalog is asked each time, the rest at most once a second and by one request at
 * a time.
 */
export class Readiness {
  readonly #catalog: Catalog
  readonly #blobs: BlobStore
  readonly #room: Room
  readonly #now: () => number
  #verdict: Promise<void> | null = null
  /** Time at which the verdict expires; never while the store has not answered. */
  #until = 0

  /** `now`: milliseconds of a clock that never goes back. */
  constructor(catalog: Catalog, blobs: BlobStore, room: Room, now = () => performance.now()) {
    this.#catalog = catalog
    this.#blobs = blobs
    this.#room = room
    this.#now = now
  }

  /**
   * Rejects with what the catalog or the store does, `blob-missing` where the store has lost the mark of this catalog, `storage-full` where nothing
   * can be written.
   */
  async check(): Promise<void> {
    const identity = await this.#catalog.identity()
    if (!this.#verdict || this.#now() >= this.#until) this.#verdict = this.#look(identity)
    await this.#verdict
  }

  async #look(identity: string): Promise<void> {
    this.#until = Number.POSITIVE_INFINITY
    try {
      // The mark is small, always there, and what makes the store this catalog's.
      await upstreamOf(this.#blobs).size(blobKey('catalogs', identity))
      await this.#room.check()
    } finally {
      this.#until = this.#now() + VERDICT_MS
    }
  }
}
