/** Bytes `[start, end)`. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

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

/** A file of this machine that has the bytes of a blob from `start` on. */
export interface LocalFile {
  readonly path: string
  readonly start: number
}

/** How the copies do that are nearer than the store itself. */
export interface CacheFigures {
  readonly hits: number
  readonly misses: number
  /** Chunks that were dropped because their bytes were not those that were stored. */
  readonly corrupt: number
  readonly bytes: number
}

/**
 * Bytes under keys of `blobKey` that nothing else has had, immutable once committed. All methods reject with
 * RegistryError: `blob-missing` only where the store says so, `storage-full` for ENOSPC and EDQUOT,
 * `storage-failed` (cause kept) for anything else. An aborted `signal` rejects with its reason.
 */
export interface BlobStore {
  /** The store itself, where this one keeps copies that are nearer; or this one. */
  readonly upstream: BlobStore
  /** Null where there are no such copies. */
  readonly cache: CacheFigures | null
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
  /** As `read`, for another thread to use: in a buffer, or in files of this machine, in order, that it may read. They may go at any time. */
  fetch(
    key: string,
    range: ByteRange,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer> | LocalFile[]>
  /** Forgets the copies of the bytes around `offset` that are nearer than the store itself: they were found to be wrong. */
  evict(key: string, offset: number): Promise<void>
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
