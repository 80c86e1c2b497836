import { availableParallelism } from 'node:os'
import { Ahead } from '../workers/ahead.ts'
import { BufferPool } from '../workers/buffer-pool.ts'
import { type Executor, Slots } from '../workers/execute.ts'
import { openPool } from '../workers/pool.ts'
import { LocalFiles } from './local-files.ts'

/** Batches of frames in memory at once, per worker. */
const SLOTS_PER_WORKER = 4

/** What the local commands work with: files and threads. */
export interface Workshop extends AsyncDisposable {
  readonly files: LocalFiles
  /** The threads start at once; this resolves when they have. */
  readonly executor: Promise<Executor>
}

/** Opens files and one worker for each processor; disposing of it ends both. */
export function openWorkshop(): Workshop {
  const workers = availableParallelism()
  const files = new LocalFiles()
  const pool = openPool({ workers })
  // A command may fail before it needs the threads.
  pool.catch(() => {})
  const origin = { read: files.read, locate: (path: string) => path, fetch: files.read }
  const slots = new Slots(workers * SLOTS_PER_WORKER)
  return {
    files,
    executor: pool.then(opened => ({
      pool: opened,
      ...origin,
      origin,
      sumsOf: () => null,
      ahead: new Ahead(workers * SLOTS_PER_WORKER),
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
