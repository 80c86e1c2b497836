import type { FrameDelta } from '../codec/wdelta/delta-index.ts'
import { indexSteps, type StoredIndex } from '../codec/wdelta/v2/reader.ts'
import { inflate } from './kernels.ts'
import { Semaphore } from './semaphore.ts'
import { inTurns } from './turns.ts'

/** Inflated, an index of most models is smaller. One of more bytes takes ten times as many while it is parsed, so such come one after the other. */
const LARGE_BYTES = 4 * 1024 * 1024
const large = new Semaphore(1)
const small = new Semaphore(4)

/**
 * What the index of a version 2 file says. It is inflated beside the event loop and parsed in turns of it, the largest ones of all that are
 * opened one by one. `maxBytes`: most bytes of the model that it may describe. Rejects with CodecError as `openIndex`, or with
 * `signal.reason` when that aborts.
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
