import { FRAME_BYTES } from '../codec/base/limits.ts'
import type { Engine } from './engine.ts'
import type { BadBlock } from './errors.ts'
import { BlockError } from './errors.ts'

/** Bytes that one task checks: more would keep other work waiting. */
export const VERIFY_BYTES = FRAME_BYTES

/** The bad blocks among the VERIFY_BYTES bytes of a blob from `start` on. Rejects with other failures of reading. */
export async function verifyRun(
  engine: Engine,
  { blob, size, start }: { readonly blob: string; readonly size: number; readonly start: number },
  signal: AbortSignal,
): Promise<readonly BadBlock[]> {
  const span = { blob, start, end: Math.min(start + VERIFY_BYTES, size) }
  try {
    return await engine.run(parts => ({ kind: 'verify', parts: [parts.part(span)] }), signal)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    return [{ blob, offset: start, why: error.why }]
  }
}

/** The offsets at which the runs of a blob of `size` bytes begin: see {@link verifyRun}. */
export function* runStarts(size: number): Generator<number> {
  for (let start = 0; start < size; start += VERIFY_BYTES) yield start
}
