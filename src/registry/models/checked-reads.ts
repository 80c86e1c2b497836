import { type BlockSums, badBlocks, coveringBlocks } from '../../codec/base/block-sums.ts'
import type { Span } from '../../codec/base/ranges.ts'
import { RegistryError } from '../../errors.ts'
import { BlockError } from '../../workers/errors.ts'
import { type Executor, withRetries } from '../../workers/execute.ts'
import { threadKernels } from '../../workers/kernels.ts'

type Sums = ReadonlyMap<string, BlockSums>

/** An executor that checks every byte it reads against `sums`. What none of them has is never read: that would be a fault of ours. */
export function withSums(executor: Executor, ...sums: readonly Sums[]): Executor {
  return {
    ...executor,
    sumsOf: blob => {
      for (const known of sums) {
        const found = known.get(blob)
        if (found) return found
      }
      throw new RegistryError('internal', `nothing is known to check blob ${blob} against`)
    },
  }
}

/** The bytes of a span, read and checked by this thread: for what is small. Rejects as `executor.read`, and with BlockError. */
export async function readChecked(
  executor: Executor,
  { blob, start, end }: Span,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const { machine } = threadKernels()
  const run = coveringBlocks(executor.sumsOf(blob)!, start, end)
  const read = async (source: Executor) => {
    const bytes = await source.read({ blob, start: run.start, end: run.end }, signal)
    for (const offset of badBlocks(piece => machine.checksum(piece), bytes, run)) {
      throw new BlockError(blob, offset, 'checksum')
    }
    return bytes.subarray(start - run.start, end - run.start)
  }
  return withRetries(executor, read, signal)
}
