import type { BlockSums } from '../codec/base/block-sums.ts'
import type { Span } from '../codec/base/ranges.ts'
import type { TaskBuffer } from './tasks.ts'

/** Where the bytes of blobs come from, what they are checked against, and what to do about a failed read. */
export interface ByteSource {
  /** Reads exactly the bytes of a span, into a fresh buffer. */
  readonly read: (span: Span, signal: AbortSignal | undefined) => Promise<Uint8Array>
  /** The path of a blob that is a local file, which workers read themselves. Null for one that must be fetched. */
  readonly locate: (blob: string) => string | null
  /** Brings the bytes of a span to a worker: in a buffer, or in local files. */
  readonly fetch: (span: Span, signal: AbortSignal | undefined) => Promise<TaskBuffer>
  /** Checksums of the blocks of a blob. Null if there are none, as for a file that a user names. */
  readonly checksumsOf: (blob: string) => BlockSums | null
  /**
   * What to read from after a failed read; `tries` reads failed before it. Another source may have other bytes: the store behind a cache, or another
   * copy of a blob. Null if the next read would fail too.
   */
  readonly retry: (error: unknown, tries: number) => Promise<ByteSource | null>
}

/** Works on a source, and after a failure on what its `retry` gives. Rejects with the last failure, or with any once `signal` has aborted. */
export async function withRetries<T>(
  source: ByteSource,
  work: (source: ByteSource) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  let current = source
  for (let tries = 0; ; tries++) {
    try {
      return await work(current)
    } catch (error) {
      const next = signal?.aborted ? null : await current.retry(error, tries)
      if (!next) throw error
      current = next
    }
  }
}

/** The same source, but a failed read is tried again only while `isWorthIt` gives true. */
export function retriedWhile(
  source: ByteSource,
  isWorthIt: () => boolean | Promise<boolean>,
): ByteSource {
  return {
    ...source,
    retry: async (error, tries) => {
      const next = (await isWorthIt()) ? await source.retry(error, tries) : null
      return next && retriedWhile(next, isWorthIt)
    },
  }
}
