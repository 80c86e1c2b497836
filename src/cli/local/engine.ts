import { availableParallelism } from 'node:os'
import { BufferPool } from '../../workers/buffer-pool.ts'
import type { Executor } from '../../workers/execute.ts'
import { openPool } from '../../workers/pool.ts'
import { PrefetchBudget } from '../../workers/prefetch.ts'
import { Semaphore } from '../../workers/semaphore.ts'
import { LocalFiles } from './files.ts'

/** Batches of frames in memory at once, per worker. */
const SLOTS_PER_WORKER = 4

/** What the local commands work with: files and threads. */
export interface LocalEngine extends AsyncDisposable {
  readonly files: LocalFiles
  /** The threads start at once; this resolves when they have. */
  readonly executor: Promise<Executor>
}

/** Opens files and one worker for each processor; disposing of it ends both. */
export function openLocalEngine(): LocalEngine {
  const workers = availableParallelism()
  const files = new LocalFiles()
  const pool = openPool({ workers })
  // A command may fail before it needs the threads.
  pool.catch(() => {})
  const upstream = { read: files.read, locate: (path: string) => path, fetch: files.read }
  const slots = new Semaphore(workers * SLOTS_PER_WORKER)
  return {
    files,
    executor: pool.then(opened => ({
      pool: opened,
      ...upstream,
      upstream,
      sumsOf: () => null,
      prefetch: new PrefetchBudget(workers * SLOTS_PER_WORKER),
      bufferPool: new BufferPool(),
      failed: async () => false,
      slots,
    })),
    [Symbol.asyncDispose]: async () => {
      const [opened] = await Promise.allSettled([pool])
      if (opened.status === 'fulfilled') await opened.value.close()
      await files[Symbol.asyncDispose]()
    },
  }
}
