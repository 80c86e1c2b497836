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
  const socket = new Flushes(response, sent)
  try {
    for (let result = first; !result.done; result = await chunks.next()) {
      if (response.destroyed) return
      await socket.write(result.value)
    }
    await socket.flushed()
    if (!response.destroyed) response.end()
  } catch (error) {
    if (response.destroyed) return
    // What was made so far is right, and tells the client where to go on.
    await socket.flushed()
    response.destroy()
    throw error
  } finally {
    await chunks.return?.()
  }
}

/** The writes of one response that its socket has not done yet. */
class Flushes {
  readonly #response: ServerResponse
  readonly #sent: (bytes: number) => void
  readonly #under: PromiseWithResolvers<void>[] = []

  constructor(response: ServerResponse, sent: (bytes: number) => void) {
    this.#response = response
    this.#sent = sent
    // A write that a closed connection swallowed never calls back.
    response.once('close', () => {
      for (const flush of this.#under) flush.resolve()
    })
  }

  /** Resolves once few enough writes are under way, or the client is gone. */
  async write(chunk: Uint8Array): Promise<void> {
    const flush = Promise.withResolvers<void>()
    this.#under.push(flush)
    const { length } = chunk
    this.#response.write(chunk, error => {
      if (!error) {
        this.#sent(length)
        release(chunk)
      }
      flush.resolve()
    })
    if (this.#under.length < UNFLUSHED) return
    await this.#under[0]!.promise
    this.#under.shift()
  }

  /** Resolves once all is written, or the client is gone. */
  async flushed(): Promise<void> {
    if (this.#response.destroyed) return
    await Promise.all(this.#under.map(({ promise }) => promise))
  }
}

/** Gives back the memory of a chunk that owns its buffer; one that shares it is left alone. */
function release({ buffer, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0)
}
