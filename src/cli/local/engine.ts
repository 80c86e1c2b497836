import { availableParallelism } from 'node:os'
import { BufferPool } from '../../workers/buffer-pool.ts'
import type { ByteSource } from '../../workers/byte-source.ts'
import { Engine } from '../../workers/engine.ts'
import { openPool } from '../../workers/pool.ts'
import { LocalFiles } from './files.ts'

/** Most batches of frames in memory, per worker. */
const BATCHES_PER_WORKER = 4

/** The files and the threads of a local command. */
export interface LocalEngine extends AsyncDisposable {
  readonly files: LocalFiles
  /** Resolves once the threads have started, which they do at once. */
  readonly engine: Promise<Engine>
}

/** Opens a local engine with one worker for each processor. Disposal closes the files and ends the workers. */
export function openLocalEngine(): LocalEngine {
  const workers = availableParallelism()
  const files = new LocalFiles()
  const pool = openPool({ workers })
  // A command may fail before it needs the threads.
  pool.catch(() => {})
  const source: ByteSource = {
    read: files.read,
    locate: path => path,
    fetch: files.read,
    checksumsOf: () => null,
    retry: async () => null,
  }
  const batchesPerWorker = BATCHES_PER_WORKER
  const parts = {
    buffers: new BufferPool(),
    batchesPerWorker,
    prefetched: workers * batchesPerWorker,
  }
  return {
    files,
    engine: pool.then(opened => Engine.over(source, { ...parts, pool: opened })),
    [Symbol.asyncDispose]: async () => {
      const [opened] = await Promise.allSettled([pool])
      if (opened.status === 'fulfilled') await opened.value.close()
      await files[Symbol.asyncDispose]()
    },
  }
}
