import type { FastifyReply } from 'fastify'
import { RegistryError } from '../errors.ts'

/**
 * Aborts (reason: RegistryError `client-closed`) when the connection closes before the answer is sent in full. Fastify's own
 * `request.signal` does not fit: it aborts as soon as the body has been read, while the client still waits.
 */
export function closeSignal({ raw }: FastifyReply): AbortSignal {
  const controller = new AbortController()
  const abort = () => {
    if (raw.writableFinished) return
    controller.abort(new RegistryError('client-closed', 'the client closed the connection'))
  }
  if (raw.destroyed) abort()
  else raw.once('close', abort)
  return controller.signal
}
