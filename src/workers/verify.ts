import { FRAME_BYTES } from '../codec/base/limits.ts'
import type { Engine } from './engine.ts'
import type { BadBlock } from './errors.ts'
import { BlockError } from './errors.ts'

/** Bytes that one task checks: no more than other work would wait for. */
export const VERIFY_BYTES = FRAME_BYTES

/** Checks the VERIFY_BYTES of a blob from `start` on against its checksums. Rejects as reading does, but for bad blocks. */
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

/** Where the runs of a blob of `size` bytes begin. */
export function* runStarts(size: number): Generator<number> {
  for (let start = 0; start < size; start += VERIFY_BYTES) yield start
}
