import type { ByteRange } from '../codec/base/ranges.ts'

/** A blob that is written in full but not visible yet. The caller calls exactly one of `commit` and `abort`. */
export interface Staged {
  readonly size: number
  /** Makes the bytes readable under their key, and durable: once it resolves, they survive a power cut. */
  commit(): Promise<void>
  /** Drops the bytes. Never rejects: the sweep removes what it could not. */
  abort(): Promise<void>
}

export interface BlobInfo {
  readonly key: string
  readonly size: number
  readonly modified: Date
}

/**
 * Immutable bytes under keys of `blobKey`; no key is used twice. All methods reject with RegistryError: `blob-missing` only if the store says
 * that there is no such blob, `storage-full` if there is no room, `storage-unavailable` for what may go well later, `storage-failed` for anything
 * else, with the cause. Once `signal` is aborted, they reject with its reason.
 */
export interface BlobStore {
  /** Writes `body` to its end. If the body or the store fails, nothing is left behind and the body is closed. */
  stage(key: string, body: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<Staged>
  /**
   * Exactly the bytes of `range`, at the start of `into`, or in a new buffer if that is not given (never a pooled one: it may be transferred).
   * Rejects `blob-short` if the blob ends before `range.end`. Nothing is written to `into` after the promise has settled.
   */
  read(
    key: string,
    range: ByteRange,
    signal?: AbortSignal,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>>
  /** The path of a blob that is a local file, which other threads may read; null for one that must be fetched. */
  locate(key: string): string | null
  /** Bytes of a blob. Rejects `blob-missing`. */
  size(key: string): Promise<number>
  /**
   * All committed blobs whose key begins with `prefix`, in any order. `isWanted` filters by key: a store where size and time cost more than the key
   * asks for those of wanted blobs only. The list may be stale.
   */
  list(prefix: string, isWanted?: (key: string) => boolean): AsyncIterable<BlobInfo>
  /** Deletes committed blobs. Keys that are not there are ignored. */
  delete(keys: readonly string[]): Promise<void>
  /** Removes what was staged before `before` and is not in use by this process. Returns what was removed, or with `dryRun` would be. */
  sweepStaged(before: Date, dryRun: boolean): Promise<BlobInfo[]>
  /** Frees buffers that are kept for reuse. */
  trim(): void
  close(): Promise<void>
}
