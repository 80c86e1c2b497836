import type { Catalog } from '../catalog/catalog.ts'
import { blobKey } from '../storage/blob-key.ts'
import type { BlobStore } from '../storage/blob-store.ts'

/** How long an answer of the store is repeated, in milliseconds: everybody may ask, and a bucket is paid for each look. */
const VERDICT_MS = 1000

/** Whether catalog and store answer. The catalog is asked each time, the store at most once a second, by one look at a time. */
export class Readiness {
  readonly #catalog: Catalog
  readonly #blobs: BlobStore
  readonly #now: () => number
  #verdict: Promise<void> | null = null
  /** When the verdict is asked for anew; never while the store has not answered. */
  #until = 0

  /** `now`: milliseconds of a clock that never goes back. */
  constructor(catalog: Catalog, blobs: BlobStore, now = () => performance.now()) {
    this.#catalog = catalog
    this.#blobs = blobs
    this.#now = now
  }

  /** Rejects with what the catalog or the store does, `blob-missing` where the store has lost the mark of this catalog. */
  async check(): Promise<void> {
    const identity = await this.#catalog.identity()
    if (!this.#verdict || this.#now() >= this.#until) this.#verdict = this.#look(identity)
    await this.#verdict
  }

  async #look(identity: string): Promise<void> {
    this.#until = Number.POSITIVE_INFINITY
    try {
      // The mark is small, always there, and what makes the store this catalog's.
      await this.#blobs.origin.size(blobKey('catalogs', identity))
    } finally {
      this.#until = this.#now() + VERDICT_MS
    }
  }
}
