import type { ServerResponse } from 'node:http'
import { RegistryError } from '../errors.ts'

/** Chunks given to the socket that it has not written yet: the next one is ready when it asks. */
const UNFLUSHED = 2

/**
 * Passes on `size` bytes, or throws. The last chunk is held back until the source has ended well: what it still had to
 * check, the client must not believe before.
 */
export async function* exactly(
  size: number,
  chunks: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  let left = size
  let held: Uint8Array | null = null
  try {
    for (let result = await chunks.next(); !result.done; result = await chunks.next()) {
      const chunk = result.value
      if (chunk.length === 0) continue
      left -= chunk.length
      if (left < 0) throw new RegistryError('internal', `content is longer than ${size} bytes`)
      if (left === 0) held = chunk
      else yield chunk
    }
    if (left > 0) throw new RegistryError('internal', `content ended ${left} bytes early`)
    if (held) yield held
  } finally {
    await chunks.return?.()
  }
}

/**
 * Writes a body to a response whose head is written, and ends it; `first` has been taken from `chunks` already. A chunk's memory is
 * given back as soon as the socket has written it: left to the collector, a fast download holds hundreds of MiB that
 * nobody needs. `sent` is told of every chunk that the socket took.
 * Resolves when all is written or the client is gone; rejects, with the connection cut, if the source fails.
 */
export async function writeBody(
  response: ServerResponse,
  first: IteratorResult<Uint8Array>,
  chunks: AsyncIterator<Uint8Array>,
  sent: (bytes: number) => void,
): Promise<void> {
  // A write that a closed connection swallowed never calls back.
  const closed = new Promise<void>(resolve => void response.once('close', resolve))
  const unflushed: Promise<void>[] = []
  try {
    for (let result = first; !result.done; result = await chunks.next()) {
      if (response.destroyed) return
      unflushed.push(flush(response, result.value, sent))
      if (unflushed.length >= UNFLUSHED) await Promise.race([unflushed.shift(), closed])
    }
    await Promise.race([Promise.all(unflushed), closed])
    if (!response.destroyed) response.end()
  } catch (error) {
    if (response.destroyed) return
    // What was made so far is right, and tells the client where to go on.
    await Promise.race([Promise.all(unflushed), closed])
    response.destroy()
    throw error
  } finally {
    await chunks.return?.()
  }
}

/** Resolves once the socket has written the chunk, or failed to. */
function flush(
  response: ServerResponse,
  chunk: Uint8Array,
  sent: (bytes: number) => void,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const { length } = chunk
  response.write(chunk, error => {
    if (!error) {
      sent(length)
      release(chunk)
    }
    resolve()
  })
  return promise
}

/** Gives back the memory of a chunk that owns its buffer; one that shares it is left alone. */
function release({ buffer, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0)
}
