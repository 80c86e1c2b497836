import type { IncomingMessage } from 'node:http'

/** Most bytes of an unwanted body that are read and dropped. */
const MAX_BYTES = 16 * 1024 * 1024

/**
 * Waits until a refused client has sent its body or hung up, or `ms` milliseconds have passed. A socket that closes while bytes arrive sends a
 * reset, and a reset discards the answer if the client has not read it yet.
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
