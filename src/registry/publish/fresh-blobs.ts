import type { BlobRecord } from '../../catalog/records.ts'

interface Fresh {
  readonly record: BlobRecord
  /** Publications under way that need it. */
  users: number
}

/**
 * Blobs that are committed and that no row refers to yet, by content. Publications that are under way at once share them, whichever of
 * them gets its row first: none waits for another's proof. A blob that no row has come to refer to belongs to the last one that lets go.
 */
export class FreshBlobs {
  readonly #byContent = new Map<string, Fresh>()

  /** A committed blob of this content, which the caller now uses; null if there is none. */
  take(sha256: string): BlobRecord | null {
    const fresh = this.#byContent.get(sha256)
    if (!fresh) return null
    fresh.users++
    return fresh.record
  }

  /** Offers a blob that was just committed. The caller is its first user and knows of no other blob of this content. */
  add(record: BlobRecord): void {
    this.#byContent.set(record.sha256, { record, users: 1 })
  }

  /** A row now refers to these blobs: publications find them in the catalog, and need not release them. */
  settle(records: Iterable<BlobRecord>): void {
    for (const { sha256, key } of records) {
      if (this.#byContent.get(sha256)?.record.key === key) this.#byContent.delete(sha256)
    }
  }

  /** Releases blobs that the caller took or added. Returns those without users and without a row: nobody can take them any more. */
  release(records: Iterable<BlobRecord>): BlobRecord[] {
    const dropped: BlobRecord[] = []
    for (const record of records) {
      const fresh = this.#byContent.get(record.sha256)
      // A row has come to refer to it since.
      if (fresh?.record.key !== record.key) continue
      fresh.users--
      if (fresh.users > 0) continue
      this.#byContent.delete(record.sha256)
      dropped.push(record)
    }
    return dropped
  }
}
