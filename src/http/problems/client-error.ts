import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { type ErrorCode, RegistryError } from '../../errors.ts'
import { PROBLEM_TYPE, toProblem } from './problem.ts'

/**
 * Answers requests that are not HTTP, whose head is too slow or too long, or whose body ends too early. Fastify's own handler would write into an
 * answer under way, where its bytes become part of the content. Returns the handler, and a function that makes it know the answers of `app`.
 */
export function clientErrors() {
  const open = new WeakMap<Socket, Set<ServerResponse>>()
  return {
    handler(error: NodeJS.ErrnoException, socket: Socket): void {
      const answers = open.get(socket) ?? new Set()
      const begun = [...answers].some(({ headersSent }) => headersSent)
      if (socket.writable && !begun && error.code !== 'ECONNRESET') {
        socket.write(answer(codeOf(error, answers.size > 0), statusOf(error)))
      }
      socket.destroy(error)
    },
    watch(app: FastifyInstance): void {
      app.addHook('onRequest', async ({ raw: { socket } }, { raw }) => {
        const answers = open.get(socket) ?? new Set()
        open.set(socket, answers.add(raw))
        raw.once('close', () => answers.delete(raw))
      })
    },
  }
}

function codeOf({ code }: NodeJS.ErrnoException, inBody: boolean): ErrorCode {
  if (code === 'HPE_INVALID_EOF_STATE' && inBody) return 'upload-aborted'
  return 'bad-request'
}

/** The status line, where one fits better than 400. */
function statusOf({ code }: NodeJS.ErrnoException): string {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return '408 Request Timeout'
  if (code === 'HPE_HEADER_OVERFLOW') return '431 Request Header Fields Too Large'
  return '400 Bad Request'
}

function answer(code: ErrorCode, statusLine: string): string {
  const problem = toProblem(new RegistryError(code, 'expected a complete HTTP/1.1 request'))
  const body = JSON.stringify({ ...problem, status: Number(statusLine.slice(0, 3)) })
  return [
    `HTTP/1.1 ${statusLine}`,
    `Content-Type: ${PROBLEM_TYPE}`,
    'X-Content-Type-Options: nosniff',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n')
}
