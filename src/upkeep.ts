import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from './registry/log.ts'
import type { Care, Registry } from './registry/registry.ts'

/** Settings of what the process does on its own. */
interface UpkeepOptions {
  /** Between two sweeps, milliseconds. */
  readonly sweepEveryMs: number
  /** Rate at which a background scrub reads; 0 for no scrub. */
  readonly scrubBytesPerSecond: number
  /** Limit of resident memory, in bytes, near which buffers kept for reuse are dropped; 0 for no limit. */
  readonly maxRssBytes: number
}

/** Milliseconds between two passes of the background scrub. */
const SCRUB_PAUSE_MS = 3_600_000

/** Milliseconds between two looks at the process's memory. */
const MEMORY_PAUSE_MS = 1000
/** Part of the limit above which memory is dropped: below 1, as at the limit work is refused. */
const TRIM_AT = 0.9
/** Looks in a row without work after which the registry is at rest. */
const LOOKS_AT_REST = 30
/** Least milliseconds between two times that memory is dropped, as it costs time to fill again. */
const TRIM_PAUSE_MS = 10_000

/** Sweeps regularly, drops memory near the limit and at rest, and scrubs all the time if asked to. Disposal ends all of that. */
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
 * Returns a function, to be called once a second, that drops memory kept for reuse: near the limit, or if the registry is at rest and keeps more
 * than a few streams need.
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

/** Runs `work` after each pause until the signal aborts. Logs a failure and tries again after the next pause. */
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
