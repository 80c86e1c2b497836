import type { Pool } from './pool.ts'

/**
 * Hex SHA-256 of all chunks in order, taken in a worker while the next chunk is made. Chunks with a buffer of their own are
 * handed over. Rejects with what `chunks` throws.
 */
export async function digest(pool: Pool, chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const session = pool.openHash()
  let done = false
  let update: Promise<void> = Promise.resolve()
  try {
    for await (const chunk of chunks) {
      await update
      update = session.update(chunk)
      // The loop may fail before it awaits this.
      update.catch(() => {})
    }
    await update
    const hex = await session.digest()
    done = true
    return hex
  } finally {
    if (!done) session.abandon()
  }
}
