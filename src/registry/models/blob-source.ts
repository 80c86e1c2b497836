import type { Span } from '../../codec/base/ranges.ts'
import type { RegistryError } from '../../errors.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import { isNear, upstreamOf } from '../../storage/near-store.ts'
import type { ByteSource } from '../../workers/byte-source.ts'
import { BlockError } from '../../workers/errors.ts'

/** What to do about failed reads, and what to read in place of a bad blob. */
export interface FailedReads {
  /** The blob to read for `key`. */
  standIn(key: string): string
  /** Takes note of a failed read, after `tries` others. True if another try may read other bytes. */
  failed(error: unknown, tries: number): Promise<boolean>
}

/** Blobs read from the store itself, past any cache. No read is tried again. */
export function storedBlobs(blobs: BlobStore): ByteSource {
  return sourceOf(
    upstreamOf(blobs),
    key => key,
    async () => null,
  )
}

/** The blobs of models. A failed read is tried again from the store itself, or from another copy of the bad blob. */
export function modelBlobs(blobs: BlobStore, bad: FailedReads): ByteSource {
  const standIn = (key: string) => bad.standIn(key)
  const retry: ByteSource['retry'] = async (error, tries) =>
    (await bad.failed(error, tries)) ? upstream : null
  const upstream = sourceOf(upstreamOf(blobs), standIn, retry)
  return sourceOf(blobs, standIn, retry)
}

/** The bytes of the blobs that `resolve` names. A missing or short blob is a bad one, like one with wrong bytes. */
function sourceOf(
  blobs: BlobStore,
  resolve: (key: string) => string,
  retry: ByteSource['retry'],
): ByteSource {
  const bad =
    ({ blob, start }: Span) =>
    (error: unknown) => {
      const { code } = error as RegistryError
      if (code === 'blob-missing') throw new BlockError(blob, start, 'missing', { cause: error })
      if (code === 'blob-short') throw new BlockError(blob, start, 'short', { cause: error })
      throw error
    }
  const fetch = (key: string, span: Span, signal: AbortSignal | undefined) =>
    isNear(blobs) ? blobs.fetch(key, span, signal) : blobs.read(key, span, signal)
  return {
    read: (span, signal) => blobs.read(resolve(span.blob), span, signal).catch(bad(span)),
    locate: blob => blobs.locate(resolve(blob)),
    fetch: (span, signal) => fetch(resolve(span.blob), span, signal).catch(bad(span)),
    checksumsOf: () => null,
    retry,
  }
}
