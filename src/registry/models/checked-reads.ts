import type { Catalog } from '../../catalog/catalog.ts'
import { type BlockSums, badBlocks, coveringBlocks } from '../../codec/base/block-sums.ts'
import type { Span } from '../../codec/frames/float-frame.ts'
import { RegistryError } from '../../errors.ts'
import { BlockError } from '../../workers/errors.ts'
import { type Executor, withRetries } from '../../workers/execute.ts'
import { threadKernels } from '../../workers/kernels.ts'
import type { OpenedModels } from './opened-models.ts'

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

/**
 * Reads a block once more that was bad where a read is not tried again, in the middle of a publication: only then is it evicted, or marked.
 * Nothing is said of what is bad: the error that came first says it.
 */
export async function confirmDamage(
  deps: { catalog: Catalog; models: OpenedModels; executor: Executor },
  error: unknown,
): Promise<void> {
  // Some are translated where they pass.
  const bad = [error, (error as Error).cause].find(each => each instanceof BlockError)
  if (!bad) return
  const { blob, offset } = bad
  const [owner] = await deps.catalog.modelsOf(blob, 1)
  if (!owner) return
  try {
    const { sums } = await deps.models.open(owner)
    const checked = withSums(deps.executor, sums)
    await readChecked(checked, { blob, start: offset, end: offset + 1 })
  } catch {
    // Whoever reads it next is told.
  }
}
