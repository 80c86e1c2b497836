import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { S3Options } from '../../../src/storage/s3/client.ts'
import {
  type Answer,
  type Asked,
  FakeBucket,
  type Operation,
  operationOf,
  refusal,
  type View,
} from './fake-bucket.ts'

/** What goes wrong with one request. */
export type Fault =
  /** It answers this, and does nothing. Early: before it has read a byte of the request's body. */
  | { readonly kind: 'refuse'; readonly answer: Answer; readonly isEarly?: true }
  /** It cuts the connection, or says nothing any more: when it has the request's head, a piece of its body, or when all is done. */
  | { readonly kind: 'reset' | 'stall'; readonly at: 'head' | 'body' | 'answer' }
  /** It answers, and of the body come so many bytes. */
  | { readonly kind: 'cut'; readonly after: number; readonly end: 'reset' | 'stall' | 'close' }
  /** It works on it for so many milliseconds before it is done and answers. */
  | { readonly kind: 'late'; readonly ms: number }
  /** It answers, a byte of the body at a time. */
  | { readonly kind: 'trickle' }
  /** It answers something else than it should. */
  | { readonly kind: 'answer'; readonly change: (answer: Answer) => Answer }
  /** It takes something else than was sent. */
  | { readonly kind: 'take'; readonly change: (body: Buffer) => Buffer }
  /** It lists what there was when the script was given to it. */
  | { readonly kind: 'stale' }
  /** It speaks another protocol. */
  | { readonly kind: 'noise' }

/** A fault of requests of one kind. */
export interface Script {
  readonly on: Operation
  readonly fault: Fault
  /** So many go well before it. */
  readonly after?: number
  /** Of so many; of all that come, where it is not given. */
  readonly times?: number
}

interface Running {
  readonly on: Operation
  readonly fault: Fault
  readonly view: View
  spared: number
  left: number
}

/** How far a clock may be off, milliseconds. Source: `RequestTimeTooSkewed` in the API reference of Amazon S3. */
const MAX_SKEW_MS = 900_000
/** Between two bytes of a trickle, milliseconds. */
const TRICKLE_MS = 20

/** An S3 server in this process, that does what scripts tell it to and keeps account of what is asked of it. */
export class FakeS3 implements AsyncDisposable {
  readonly bucket: FakeBucket
  readonly #server: Server
  #url = ''
  readonly #sockets = new Set<Socket>()
  readonly #underWay = new Set<ServerResponse>()
  readonly #counts = new Map<Operation, number>()
  readonly #unread = new Set<IncomingMessage>()
  #scripts: Running[] = []
  #struck = 0
  #mostConnections = 0
  /** How far its clock is ahead of this machine's, milliseconds. */
  clockAheadMs = 0

  private constructor(bucket: FakeBucket) {
    this.bucket = bucket
    this.#server = createServer((request, response) => void this.#serve(request, response))
    this.#server.on('connection', socket => {
      this.#sockets.add(socket)
      this.#mostConnections = Math.max(this.#mostConnections, this.#sockets.size)
      socket.on('close', () => this.#sockets.delete(socket))
    })
  }

  /** Starts a server on loopback. `pageSize`: what one answer lists at most. */
  static async start(pageSize?: number): Promise<FakeS3> {
    const fake = new FakeS3(new FakeBucket(pageSize))
    fake.#server.listen(0, '127.0.0.1')
    await once(fake.#server, 'listening')
    fake.#url = `http://127.0.0.1:${(fake.#server.address() as AddressInfo).port}`
    return fake
  }

  /** How to get into its bucket. */
  options(more: Partial<S3Options> = {}): S3Options {
    return {
      endpoint: this.#url,
      bucket: this.bucket.name,
      region: 'us-east-1',
      accessKeyId: 'id',
      secretAccessKey: 'secret',
      prefix: '',
      ...more,
    }
  }

  /** Connections that are open. */
  get connections(): number {
    return this.#sockets.size
  }

  /** The most that were open at once. */
  get mostConnections(): number {
    return this.#mostConnections
  }

  /** Requests that are neither answered in full nor given up by who asked. */
  get underWay(): number {
    return this.#underWay.size
  }

  /** Requests that a script has spoiled. */
  get struck(): number {
    return this.#struck
  }

  /** Requests of a kind so far. */
  requests(operation: Operation): number {
    return this.#counts.get(operation) ?? 0
  }

  /** Of several scripts for one kind of request, the first that is not at its end counts. */
  script({ on, fault, after = 0, times = Number.POSITIVE_INFINITY }: Script): void {
    this.#scripts.push({ on, fault, spared: after, left: times, view: this.bucket.view() })
  }

  /** From now on all goes well. What it has not read of stalled requests it reads: only so it sees whether they were given up. */
  heal(): void {
    this.#scripts = []
    for (const request of this.#unread) request.resume()
    this.#unread.clear()
  }

  /** Takes no connections any more, and cuts those that are open. */
  async refuseConnections(): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server.listening) await this.refuseConnections()
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#underWay.add(response)
    response.on('close', () => this.#underWay.delete(response))
    // Who asks may go at any time.
    request.on('error', () => {})
    response.on('error', () => {})
    const { pathname, searchParams: query } = new URL(request.url!, 'http://s3')
    const [bucket, ...rest] = decodeURIComponent(pathname).slice(1).split('/')
    const key = rest.join('/')
    const operation = operationOf(request.method!, key, query)
    if (operation === null) return send(response, refusal(405, 'MethodNotAllowed'))
    this.#counts.set(operation, this.requests(operation) + 1)
    const running = this.#strike(operation)
    const fault = running?.fault
    if (fault?.kind === 'noise') {
      request.socket.end('220 mail.example ESMTP\r\n')
      request.resume()
      return
    }
    if (fault?.kind === 'refuse' && fault.isEarly) {
      send(response, { ...fault.answer, headers: { ...fault.answer.headers, connection: 'close' } })
      return
    }
    if (this.#spoil(fault, 'head', request)) return
    const body = await read(request, fault)
    if (body === null || this.#spoil(fault, 'body', request)) return
    if (fault?.kind === 'refuse') return send(response, fault.answer)
    const refused = bucket === this.bucket.name ? this.#refused(request, body) : noBucket(operation)
    const taken = fault?.kind === 'take' ? fault.change(body) : body
    const asked: Asked = { operation, key, query, headers: request.headers, body: taken }
    if (fault?.kind === 'late') await sleep(fault.ms)
    const view = fault?.kind === 'stale' ? running!.view : undefined
    const answer = refused ?? this.bucket.answer(asked, view)
    if (this.#spoil(fault, 'answer', request)) return
    if (fault?.kind === 'cut') return sendPiece(response, answer, fault)
    if (fault?.kind === 'trickle') return trickle(response, answer)
    send(response, fault?.kind === 'answer' ? fault.change(answer) : answer, this.#now())
  }

  #strike(operation: Operation): Running | undefined {
    const running = this.#scripts.find(({ on, left }) => on === operation && left > 0)
    if (!running) return undefined
    if (running.spared > 0) {
      running.spared--
      return undefined
    }
    running.left--
    this.#struck++
    return running
  }

  /** Cuts or leaves the request if the fault says so here; true if it does. */
  #spoil(
    fault: Fault | undefined,
    at: 'head' | 'body' | 'answer',
    request: IncomingMessage,
  ): boolean {
    if ((fault?.kind !== 'reset' && fault?.kind !== 'stall') || fault.at !== at) return false
    if (fault.kind === 'reset') request.socket.resetAndDestroy()
    else this.#unread.add(request.pause())
    return true
  }

  #now(): Date {
    return new Date(Date.now() + this.clockAheadMs)
  }

  /** What is answered to who has another time, or whose body was changed on its way. */
  #refused({ headers }: IncomingMessage, body: Buffer): Answer | null {
    const declared = String(headers['x-amz-content-sha256'])
    const isHash = /^[0-9a-f]{64}$/.test(declared)
    if (isHash && declared !== createHash('sha256').update(body).digest('hex')) {
      return refusal(400, 'XAmzContentSHA256Mismatch')
    }
    const [, date, time] = /^(\d{8})T(\d{6})Z$/.exec(String(headers['x-amz-date'])) ?? []
    const iso = `${date}T${time}`.replace(/^(....)(..)(..T..)(..)(..)$/, '$1-$2-$3:$4:$5Z')
    const skewMs = Math.abs(Date.parse(iso) - this.#now().getTime())
    return skewMs <= MAX_SKEW_MS ? null : refusal(403, 'RequestTimeTooSkewed')
  }
}

function noBucket(operation: Operation): Answer {
  const answer = refusal(404, 'NoSuchBucket')
  return operation.startsWith('Head') ? { ...answer, body: Buffer.alloc(0) } : answer
}

/** The body of a request, or what came of it where the fault has seen enough; null if who asks has gone. */
async function read(request: IncomingMessage, fault: Fault | undefined): Promise<Buffer | null> {
  const isPiece = (fault?.kind === 'reset' || fault?.kind === 'stall') && fault.at === 'body'
  const chunks: Buffer[] = []
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      chunks.push(chunk)
      if (isPiece) break
    }
    return Buffer.concat(chunks)
  } catch {
    return null
  }
}

function send(response: ServerResponse, { status, headers, body }: Answer, date?: Date): void {
  if (date) response.setHeader('date', date.toUTCString())
  response.writeHead(status, headers)
  response.end(body)
}

/** Sends the head of an answer and a piece of its body. */
function sendPiece(
  response: ServerResponse,
  { status, headers, body }: Answer,
  { after, end }: Extract<Fault, { kind: 'cut' }>,
): void {
  response.writeHead(status, headers)
  response.flushHeaders()
  response.write(body.subarray(0, after), () => {
    if (end === 'reset') response.socket?.resetAndDestroy()
    if (end === 'close') response.socket?.end()
  })
}

async function trickle(response: ServerResponse, { status, headers, body }: Answer): Promise<void> {
  response.writeHead(status, headers)
  for (const byte of body) {
    response.write(Uint8Array.of(byte))
    await sleep(TRICKLE_MS)
    if (response.destroyed) return
  }
  response.end()
}
