import type { ServerResponse } from 'node:http'
import { RegistryError } from '../errors.ts'

/**
 * Passes on exactly `size` bytes, or throws. Holds the last byte back until the source has ended well, so that a client never takes an answer
 * that failed for a complete one. A chunk is valid until the next one is asked for.
 */
export async function* exactly(
  size: number,
  chunks: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  let left = size
  let last: Uint8Array | null = null
  try {
    for (let result = await chunks.next(); !result.done; result = await chunks.next()) {
      const chunk = result.value
      if (chunk.length === 0) continue
      left -= chunk.length
      if (left < 0) throw new RegistryError('internal', `content is longer than ${size} bytes`)
      if (left > 0) {
        yield chunk
        continue
      }
      last = chunk.slice(-1)
      if (chunk.length > 1) yield chunk.subarray(0, -1)
    }
    if (left > 0) throw new RegistryError('internal', `content ended ${left} bytes early`)
    if (last) yield last
  } finally {
    await chunks.return?.()
  }
}

/**
 * Writes a body to a response whose head is written, and ends it; `first` has been taken from `chunks` already. A chunk is written before
 * the next is asked for, as its memory may be reused then. Calls `sent` for every chunk that the socket took.
 * Resolves when all is written or the client is gone. If the source fails, cuts the connection and rejects.
 */
export async function writeBody(
  response: ServerResponse,
  first: IteratorResult<Uint8Array>,
  chunks: AsyncIterator<Uint8Array>,
  sent: (bytes: number) => void,
): Promise<void> {
  try {
    for (let result = first; !result.done; result = await chunks.next()) {
      if (response.destroyed || !(await write(response, result.value))) return
      sent(result.value.length)
    }
    if (!response.destroyed) response.end()
  } catch (error) {
    if (response.destroyed) return
    // The bytes so far were right and have been sent: their number tells the client where to continue.
    response.destroy()
    throw error
  } finally {
    await chunks.return?.()
  }
}

/** Resolves with true once the socket has taken the chunk, with false if the client is gone. */
function write(response: ServerResponse, chunk: Uint8Array): Promise<boolean> {
  return new Promise(resolve => {
    // A write to a connection that closes meanwhile never calls back.
    const gone = () => resolve(false)
    response.once('close', gone)
    response.write(chunk, error => {
      response.off('close', gone)
      resolve(!error)
    })
  })
}
