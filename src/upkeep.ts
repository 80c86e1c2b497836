import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from './registry/open-registry.ts'
import type { Registry } from './registry/registry.ts'

/** What the process does by itself, beside requests. */
export interface UpkeepOptions {
  /** Between two sweeps, milliseconds. */
  readonly sweepEveryMs: number
  /** What a scrub in the background reads in a second; 0 for none. */
  readonly scrubBytesPerSecond: number
}

/** Between two passes of a scrub over a small store, milliseconds. */
const SCRUB_PAUSE_MS = 3_600_000

/** Sweeps now and then, and scrubs without end where that is asked for. Disposing of it ends both. */
export function startUpkeep(
  registry: Pick<Registry, 'sweep' | 'scrub'>,
  { sweepEveryMs, scrubBytesPerSecond: bytesPerSecond }: UpkeepOptions,
  log: Log,
): AsyncDisposable {
  const end = new AbortController()
  const { signal } = end
  const jobs = [
    repeat(sweepEveryMs, signal, log, async () => {
      const { deletedTotal, bytes } = await registry.sweep({ dryRun: false })
      if (deletedTotal > 0) log.info({ blobs: deletedTotal, bytes }, 'swept')
    }),
  ]
  if (bytesPerSecond > 0) {
    const scrub = async () => {
      const report = await registry.scrub({ signal, bytesPerSecond })
      const { blobs, bytes, damaged, damagedTotal, clearedTotal } = report
      if (damaged.length > 0) log.warn({ damaged }, 'the scrub found damage')
      log.info({ blobs, bytes, damaged: damagedTotal, cleared: clearedTotal }, 'scrubbed')
    }
    jobs.push(repeat(SCRUB_PAUSE_MS, signal, log, scrub))
  }
  return {
    [Symbol.asyncDispose]: async () => {
      end.abort()
      await Promise.all(jobs)
    },
  }
}

/** Does `work` after each pause until the signal aborts. What fails is told, and tried again after the next pause. */
async function repeat(
  pauseMs: number,
  signal: AbortSignal,
  log: Log,
  work: () => Promise<void>,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await sleep(pauseMs, undefined, { signal, ref: false })
      await work()
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, 'upkeep failed')
    }
  }
}
