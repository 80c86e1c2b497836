import type { BlockSums } from '../../codec/base/block-sums.ts'
import type { Engine } from '../../workers/engine.ts'
import { mapOrdered } from '../../workers/map-ordered.ts'
import { runStarts, verifyRun } from '../../workers/verify.ts'
import { checkedEngine } from '../models/checked-reads.ts'

/** Reads a blob as a whole and checks it. Returns the offset of the first block that is bad or missing; null for a sound blob. */
export async function firstBadByte(
  engine: Engine,
  blob: string,
  sums: BlockSums,
  signal: AbortSignal,
): Promise<number | null> {
  const { size } = sums
  const checked = checkedEngine(engine, new Map([[blob, sums]]))
  const verify = (start: number) => verifyRun(checked, { blob, size, start }, signal)
  for await (const [bad] of mapOrdered(runStarts(size), checked.width, verify)) {
    if (bad) return bad.offset
  }
  return null
}
