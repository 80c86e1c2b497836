import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from './registry/log.ts'
import type { Care, Registry } from './registry/registry.ts'

/** What the process does by itself, beside requests. */
interface UpkeepOptions {
  /** Between two sweeps, milliseconds. */
  readonly sweepEveryMs: number
  /** What a scrub in the background reads in a second; 0 for none. */
  readonly scrubBytesPerSecond: number
  /** Resident memory near which what is only kept to be used again is dropped; 0 for none. */
  readonly maxRssBytes: number
}

/** Between two passes of a scrub over a small store, milliseconds. */
const SCRUB_PAUSE_MS = 3_600_000

/** Between two looks at the process's memory, milliseconds. */
const MEMORY_PAUSE_MS = 1000
/** Part of its limit beyond which memory is dropped: before it is reached, where work is refused. */
const TRIM_AT = 0.9
/** Looks in a row at a registry that has nothing to do, after which it is at rest. */
const LOOKS_AT_REST = 30
/** Between two times that memory is dropped, milliseconds: what is dropped must be made again. */
const TRIM_PAUSE_MS = 10_000

/**
 * Sweeps now and then, drops memory near its limit and at rest, and scrubs without end where that is asked for. Disposing of it ends all of that.
 */
export function startUpkeep(
  registry: Pick<Registry, 'figures'> & { readonly care: Pick<Care, 'sweep' | 'scrub' | 'trim'> },
  { sweepEveryMs, scrubBytesPerSecond: bytesPerSecond, maxRssBytes }: UpkeepOptions,
  log: Log,
): AsyncDisposable {
  const end = new AbortController()
  const { signal } = end
  const jobs = [
    repeat(sweepEveryMs, signal, log, async () => {
      const { deletedTotal, bytes } = await registry.care.sweep({ dryRun: false })
      if (deletedTotal > 0) log.info({ blobs: deletedTotal, bytes }, 'swept')
    }),
  ]
  jobs.push(repeat(MEMORY_PAUSE_MS, signal, log, watchMemory(maxRssBytes, registry, log)))
  if (bytesPerSecond > 0) {
    const scrub = async () => {
      const report = await registry.care.scrub({ signal, bytesPerSecond })
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

/**
 * What looks at the process's memory once, and drops what is only kept to be used again where it is near its limit, or where the registry is at rest
 * and keeps more than a few streams need. To be called once a second.
 */
export function watchMemory(
  maxRssBytes: number,
  registry: Pick<Registry, 'figures'> & { readonly care: Pick<Care, 'trim'> },
  log: Log,
): () => Promise<void> {
  let trimmedAt = Number.NEGATIVE_INFINITY
  let looksAtRest = 0
  return async () => {
    const before = process.memoryUsage.rss()
    const { tasks, spareBytes } = registry.figures()
    looksAtRest = tasks === 0 ? looksAtRest + 1 : 0
    const isNear = maxRssBytes > 0 && before >= maxRssBytes * TRIM_AT
    const isAtRest = looksAtRest >= LOOKS_AT_REST && spareBytes > 0
    const isSoon = performance.now() - trimmedAt < TRIM_PAUSE_MS
    if (isSoon || !(isNear || isAtRest)) return
    await registry.care.trim()
    trimmedAt = performance.now()
    log.info({ before, after: process.memoryUsage.rss(), maxRssBytes }, 'memory was dropped')
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
