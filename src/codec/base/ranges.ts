/** Half-open run of bytes. */
export interface ByteRun {
  readonly start: number
  readonly end: number
}

/** Bytes `[start, end)` of a blob; `blob` is whatever the reader of the plan knows it by (a key, a path). */
export interface Span {
  readonly blob: string
  readonly start: number
  readonly end: number
}
