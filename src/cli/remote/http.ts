import { type IncomingMessage, request as plainRequest } from 'node:http'
import { request as tlsRequest } from 'node:https'

/** A request body of known length. */
export interface Body {
  readonly type: string
  /** Bytes, exactly. */
  readonly length: number
  readonly chunks: AsyncIterable<Uint8Array>
}

interface HttpRequest {
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Body | null
  /** Milliseconds without a byte in either direction after which the request fails; null for no limit. */
  readonly idleMs: number | null
}

/** Milliseconds of silence after which TCP probes the connection, to notice a registry that has gone. */
const KEEP_ALIVE_MS = 30_000

/**
 * Sends a request and resolves with the head of its answer. If that comes before all of the body is sent, sending stops. Uses node:http because
 * fetch waits at most five minutes for an answer, and encoding a large model takes longer.
 */
export function send(
  url: URL,
  { method, headers, body, idleMs }: HttpRequest,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const length: Record<string, string> = body
    ? { 'content-type': body.type, 'content-length': String(body.length) }
    : {}
  return new Promise((resolve, reject) => {
    const request = url.protocol === 'https:' ? tlsRequest : plainRequest
    const outgoing = request(url, { method, headers: { ...headers, ...length }, signal })
    let answered = false
    outgoing.on('socket', socket => socket.setKeepAlive(true, KEEP_ALIVE_MS))
    if (idleMs !== null) {
      outgoing.setTimeout(idleMs, () => {
        outgoing.destroy(new Error(`nothing was heard for ${idleMs / 1000} s`))
      })
    }
    outgoing.on('response', incoming => {
      answered = true
      resolve(incoming)
    })
    outgoing.on('error', error => reject(signal.aborted ? signal.reason : error))
    if (!body) {
      outgoing.end()
      return
    }
    const sending = async () => {
      for await (const chunk of body.chunks) {
        if (answered || outgoing.destroyed) return
        if (!outgoing.write(chunk)) await drained(outgoing)
      }
      outgoing.end()
    }
    sending().catch((error: unknown) => {
      outgoing.destroy()
      reject(error)
    })
  })
}

/** Resolves once more can be written, or need not be: because the answer has come or the connection has closed. */
function drained(outgoing: NodeJS.EventEmitter): Promise<void> {
  return new Promise(resolve => {
    const events = ['drain', 'response', 'close']
    const done = () => {
      for (const event of events) outgoing.off(event, done)
      resolve()
    }
    for (const event of events) outgoing.on(event, done)
  })
}
