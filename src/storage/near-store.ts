import type { ByteRange, LocalFile } from '../codec/base/ranges.ts'
import type { BlobStore } from './blob-store.ts'

/** Statistics of a cache since the process started. */
export interface CacheFigures {
  /** Chunks that a read found in the cache, and those that it did not. */
  readonly hits: number
  readonly misses: number
  /** Chunks dropped because their bytes were not those of the blob. */
  readonly corrupt: number
  /** Bytes in the cache now. */
  readonly bytes: number
}

/** A store that answers reads from nearby copies where it has them. Copies are not checked: a reader that finds one wrong calls `evict`. */
export interface NearStore extends BlobStore {
  /** The store that the copies are of. */
  readonly upstream: BlobStore
  readonly cache: CacheFigures
  /**
   * As `read`, for another thread to use: in a buffer, or in local files, in order, that the thread may read. A file may be deleted at any time.
   */
  fetch(
    key: string,
    range: ByteRange,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer> | LocalFile[]>
  /** Drops the copy of the bytes around `offset`, which were found to be wrong. */
  evict(key: string, offset: number): Promise<void>
}

/** Whether a store answers reads from copies. */
export function isNear(blobs: BlobStore): blobs is NearStore {
  return 'upstream' in blobs
}

/** The store itself, whose answers are never those of a copy. */
export function upstreamOf(blobs: BlobStore): BlobStore {
  return isNear(blobs) ? blobs.upstream : blobs
}
