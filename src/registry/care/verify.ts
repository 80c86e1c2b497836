import type { BlockSums } from '../../codec/base/block-sums.ts'
import { FRAME_BYTES } from '../../codec/base/limits.ts'
import { BlockError } from '../../workers/errors.ts'
import { type Executor, mapOrdered, Sources } from '../../workers/execute.ts'
import type { BadBlock } from '../../workers/tasks.ts'
import { withSums } from '../models/checked-reads.ts'

/** Bytes that one task checks: no more than other work would wait for. */
export const VERIFY_BYTES = FRAME_BYTES

/** Reads a blob from the store itself and checks it. Returns the offset of the first block that is bad or missing; null for a sound blob. */
export async function firstBadByte(
  executor: Executor,
  blob: string,
  sums: BlockSums,
  signal: AbortSignal,
): Promise<number | null> {
  const { upstream, pool } = executor
  const checked = withSums({ ...executor, ...upstream }, new Map([[blob, sums]]))
  const verify = (start: number) => verifyRun(checked, blob, sums.size, start, signal)
  for await (const [bad] of mapOrdered(runStarts(sums.size), pool.size * 2, verify)) {
    if (bad) return bad.offset
  }
  return null
}

/** Checks the VERIFY_BYTES of a blob from `start` on against what `executor` knows. Rejects as reading does, but for bad blocks. */
export async function verifyRun(
  executor: Executor,
  blob: string,
  size: number,
  start: number,
  signal: AbortSignal,
): Promise<readonly BadBlock[]> {
  using _slot = await executor.slots.take(signal)
  const sources = new Sources(executor, signal)
  const part = sources.part({ blob, start, end: Math.min(start + VERIFY_BYTES, size) })
  try {
    const buffers = await sources.buffers()
    return await executor.pool.run({ kind: 'verify', parts: [part] }, buffers, signal)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    return [{ blob, offset: start, why: error.why }]
  }
}

/** Where the runs of a blob begin. */
export function* runStarts(size: number): Generator<number> {
  for (let start = 0; start < size; start += VERIFY_BYTES) yield start
}
