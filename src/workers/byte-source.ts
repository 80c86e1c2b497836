import type { BlockSums } from '../codec/base/block-sums.ts'
import type { Span } from '../codec/base/ranges.ts'
import type { TaskBuffer } from './tasks.ts'

/** Where the bytes of blobs come from, what they are checked against, and what to do about a read that failed. */
export interface ByteSource {
  /** Reads exactly the bytes of a span, into a buffer of their own. */
  readonly read: (span: Span, signal: AbortSignal | undefined) => Promise<Uint8Array>
  /** The path of a blob that is a local file, which workers read themselves. Null for one that must be fetched. */
  readonly locate: (blob: string) => string | null
  /** Brings the bytes of a span to where a worker has them. */
  readonly fetch: (span: Span, signal: AbortSignal | undefined) => Promise<TaskBuffer>
  /** Checksums of the blocks of a blob; null where nothing is known of it, as of a file that a user names. */
  readonly checksumsOf: (blob: string) => BlockSums | null
  /**
   * Told of a read that failed, after `tries` others that failed before (0 for the first). Gives what to read from at the next try, because it may have
   * other bytes: the store itself behind a cache, another copy of a blob. Null where a next try would fail too.
   */
  readonly retry: (error: unknown, tries: number) => Promise<ByteSource | null>
}

/** Reads from a source, and again from whatever its `retry` gives. Rejects with what the last try does, or once `signal` has aborted. */
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

/** The same bytes; a failed read is tried again only while `isWorthIt` says so. */
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
