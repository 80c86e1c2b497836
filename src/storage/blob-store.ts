import type { ByteRange } from '../codec/base/ranges.ts'

/** Bytes that were written in full but that nobody can see yet. Exactly one of `commit` and `abort` is called. */
export interface Staged {
  readonly size: number
  /** Makes the bytes durable and readable under their key: when it resolves they survive a power cut. */
  commit(): Promise<void>
  /** Drops the bytes. Never rejects: what it leaves behind, the sweep takes. */
  abort(): Promise<void>
}

export interface BlobInfo {
  readonly key: string
  readonly size: number
  readonly modified: Date
}

/**
 * Bytes under keys of `blobKey` that nothing else has had, immutable once committed. All methods reject with
 * RegistryError: `blob-missing` only where the store says so, `storage-full` for ENOSPC and EDQUOT,
 * `storage-failed` (cause kept) for anything else. An aborted `signal` rejects with its reason.
 */
export interface BlobStore {
  /** Writes `body` to its end. On a failure of either side nothing stays behind and the body is closed. */
  stage(key: string, body: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<Staged>
  /**
   * Exactly the bytes of `range`, at the beginning of `into`, or without it in a buffer of their own (never pooled: it may be transferred).
   * Rejects with `blob-short` if the blob ends before `range.end`; nothing is written to `into` any more then.
   */
  read(
    key: string,
    range: ByteRange,
    signal?: AbortSignal,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>>
  /** The path of a blob that is a file of this machine, which other threads may read; null for one that must be fetched. */
  locate(key: string): string | null
  /** Bytes of a blob. */
  size(key: string): Promise<number>
  /**
   * All committed blobs whose key begins with `prefix`, in no promised order. `isWanted` leaves some out by their keys: a store for which size and
   * time cost more than the key does not look at those.
   */
  list(prefix: string, isWanted?: (key: string) => boolean): AsyncIterable<BlobInfo>
  /** Deletes committed blobs; a key that is not there is no error. */
  delete(keys: readonly string[]): Promise<void>
  /** Removes what stages left that are not under way in this process, staged before `before`. Returns what was (or, dry, would be) removed. */
  sweepStaged(before: Date, dryRun: boolean): Promise<BlobInfo[]>
  /** Drops memory that is only kept to be used again. */
  trim(): void
  close(): Promise<void>
}
