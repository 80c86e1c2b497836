import type { IncomingMessage } from 'node:http'

/** Bytes of an unwanted body that are read and dropped at most. */
const MAX_BYTES = 16 * 1024 * 1024

/**
 * Waits until a client that was refused is done: it has sent its body, hung up, or `ms` have passed. A socket that is closed
 * while bytes arrive answers them with a reset, and a reset takes the answer with it if the client has not read it yet.
 */
export function linger(raw: IncomingMessage, ms: number): Promise<void> {
  return new Promise(resolve => {
    let dropped = 0
    const drop = (chunk: Uint8Array) => {
      dropped += chunk.length
      if (dropped > MAX_BYTES) raw.pause()
    }
    const done = () => {
      clearTimeout(timer)
      raw.off('data', drop).off('end', done).off('close', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    if (raw.readableEnded || raw.destroyed) return done()
    raw.unpipe()
    raw.on('data', drop).on('end', done).on('close', done)
    raw.resume()
  })
}
