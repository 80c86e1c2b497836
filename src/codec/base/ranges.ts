/** Bytes `[start, end)` of a file, a blob, a tensor or a frame. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

/** Bytes `[start, end)` of a blob; `blob` is the name that the caller knows it by: a key, a path. */
export interface Span extends ByteRange {
  readonly blob: string
}

/** A file of this machine that has the bytes of a blob from byte `start` of the blob on. */
export interface LocalFile {
  readonly path: string
  readonly start: number
}

/** Elements `[first, first + count)` of a tensor. */
export interface ElementRun {
  readonly first: number
  readonly count: number
}
