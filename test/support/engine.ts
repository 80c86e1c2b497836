import { BufferPool } from '../../src/workers/buffer-pool.ts'
import type { ByteSource } from '../../src/workers/byte-source.ts'
import { Engine } from '../../src/workers/engine.ts'
import type { Pool } from '../../src/workers/pool.ts'

/** A source whose bytes are those that `read` gives: all of them are fetched, unchecked, and no read is tried again. */
export function sourceOf(read: ByteSource['read'], members: Partial<ByteSource> = {}): ByteSource {
  return {
    read,
    locate: () => null,
    fetch: read,
    checksumsOf: () => null,
    retry: async () => null,
    ...members,
  }
}

/** An engine over a source, with room for what a test has under way. */
export function engineOver(
  pool: Pool,
  source: ByteSource,
  { buffers = new BufferPool(), prefetched = 4 } = {},
): Engine {
  return Engine.over(source, { pool, buffers, batchesPerWorker: 2, prefetched })
}
