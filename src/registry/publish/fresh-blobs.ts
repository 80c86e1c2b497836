import type { BlobRecord } from '../../catalog/catalog.ts'

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

  /** A committed blob of this content, whose user the caller becomes; null where there is none. */
  take(sha256: string): BlobRecord | null {
    const fresh = this.#byContent.get(sha256)
    if (!fresh) return null
    fresh.users++
    return fresh.record
  }

  /** Offers a blob that was just committed; the caller is its first user, and knows of no other blob of this content. */
  add(record: BlobRecord): void {
    this.#byContent.set(record.sha256, { record, users: 1 })
  }

  /** A row refers to these blobs: they are the catalog's, who finds them there needs no offer. Nobody has to let go of them any more. */
  settle(records: Iterable<BlobRecord>): void {
    for (const { sha256, key } of records) {
      if (this.#byContent.get(sha256)?.record.key === key) this.#byContent.delete(sha256)
    }
  }

  /** Lets go of blobs that the caller took or added. Returns those that nobody needs: no row refers to them, and nobody can take them any more. */
  release(records: Iterable<BlobRecord>): BlobRecord[] {
    const dropped: BlobRecord[] = []
    for (const record of records) {
      const fresh = this.#byContent.get(record.sha256)
      // It has been settled since.
      if (fresh?.record.key !== record.key) continue
      fresh.users--
      if (fresh.users > 0) continue
      this.#byContent.delete(record.sha256)
      dropped.push(record)
    }
    return dropped
  }
}
