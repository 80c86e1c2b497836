import { type BlockSums, badBlocks, coveringBlocks } from '../../codec/base/block-sums.ts'
import type { Span } from '../../codec/base/ranges.ts'
import { RegistryError } from '../../errors.ts'
import { type ByteSource, withRetries } from '../../workers/byte-source.ts'
import type { Engine } from '../../workers/engine.ts'
import { BlockError } from '../../workers/errors.ts'
import { threadKernels } from '../../workers/kernels.ts'

type Sums = ReadonlyMap<string, BlockSums>

/** A source whose bytes are all checked against `sums`. Throws `internal` for a blob that none of them has: that is a bug of the caller. */
export function checkedSource(source: ByteSource, ...sums: readonly Sums[]): ByteSource {
  return {
    ...source,
    checksumsOf: blob => {
      for (const known of sums) {
        const found = known.get(blob)
        if (found) return found
      }
      throw new RegistryError('internal', `nothing is known to check blob ${blob} against`)
    },
    retry: async (error, tries) => {
      const next = await source.retry(error, tries)
      return next && checkedSource(next, ...sums)
    },
  }
}

/** An engine that checks every byte it reads against `sums`: see {@link checkedSource}. */
export function checkedEngine(engine: Engine, ...sums: readonly Sums[]): Engine {
  return engine.over(checkedSource(engine.source, ...sums))
}

/** The bytes of a span, read and checked by this thread: for what is small. Rejects as `source.read`, and with BlockError. */
export async function readChecked(
  source: ByteSource,
  { blob, start, end }: Span,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const { machine } = threadKernels()
  const run = coveringBlocks(source.checksumsOf(blob)!, start, end)
  const read = async (current: ByteSource) => {
    const bytes = await current.read({ blob, start: run.start, end: run.end }, signal)
    for (const offset of badBlocks(piece => machine.checksum(piece), bytes, run)) {
      throw new BlockError(blob, offset, 'checksum')
    }
    return bytes.subarray(start - run.start, end - run.start)
  }
  return withRetries(source, read, signal)
}
