/**
 * What must hold across requests. One process keeps it in its memory (`in-process.ts`); several that share a catalog would keep it there, so every
 * step that another process would have to see is a promise.
 */
export interface Holds {
  readonly pins: Pins
  readonly locks: Locks
  readonly clock: Clock
  readonly badBlobs: BadBlobs
}

/** Keys of blobs that a publication or a download under way needs: whether or not a row refers to them, the sweep leaves them alone. */
export interface Pins {
  /** Pins `keys` from when it resolves until what it gives is disposed of. */
  hold(keys: Iterable<string>): Promise<AsyncDisposable>
  /** Whether anything holds a key now. */
  has(key: string): Promise<boolean>
}

/**
 * One lock for each subject. Of several publications of the same content, one commits it and the others find it, so that content is stored once;
 * of several to the same revision, one after the other gets its time and its row.
 */
export interface Locks {
  /** Waits for the subject's turn, which lasts until it is disposed of: for as long as nothing else is waited for than the store and the catalog. */
  acquire(subject: string): Promise<AsyncDisposable>
}

/** Times of publications: each later than all before it, so that their order can be told from the times alone. */
export interface Clock {
  /** Now in ISO 8601, or a millisecond after the last one. */
  next(): Promise<string>
}

/** Blobs that have a bad block, and what is read in place of them. What this process knows is asked for at every read. */
export interface BadBlobs {
  /** The blob to read for `key`: itself, or a copy of it that is not known to be bad. */
  standIn(key: string): string
  /** `key` has a bad block. */
  mark(key: string): Promise<void>
  /** From now on `copy` is read in place of `key`; null for `key` itself. */
  replace(key: string, copy: string | null): Promise<void>
  /** Whether `key` is marked. */
  has(key: string): Promise<boolean>
  /** `key` is sound again: nothing is read in its place any more. */
  clear(key: string): Promise<void>
}
