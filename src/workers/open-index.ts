import type { FrameDelta } from '../codec/wdelta/delta-index.ts'
import { indexSteps, type StoredIndex } from '../codec/wdelta/v2/reader.ts'
import { inflate } from './kernels.ts'
import { Semaphore } from './semaphore.ts'
import { inTurns } from './turns.ts'

/** Bytes of an inflated index from which on it is opened alone: it takes ten times its bytes while it is parsed. Most indexes are smaller. */
const LARGE_BYTES = 4 * 1024 * 1024
const large = new Semaphore(1)
const small = new Semaphore(4)

/**
 * Opens the stored index of a frame delta. It is inflated beside the event loop and parsed in turns of it; large ones are opened one at a time.
 * `maxBytes`: most bytes of the model that it describes. Rejects with CodecError as `openIndex` throws, or with `signal.reason` if that aborts.
 */
export async function openStoredIndex(
  index: StoredIndex,
  { maxBytes, signal }: { maxBytes?: number; signal?: AbortSignal | undefined } = {},
): Promise<FrameDelta> {
  const { inflated: size } = index.tail
  using _slot = await (size > LARGE_BYTES ? large : small).take(signal)
  const inflated = await inflate(index.stored, size)
  return await inTurns(indexSteps(index, inflated, maxBytes), signal)
}
