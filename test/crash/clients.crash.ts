import { readFileSync } from 'node:fs'
import { Agent, type IncomingMessage, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { makeModel, makeTuned } from '../../bench/make-model.ts'
import type { Model } from '../../src/registry/registry.ts'
import { Random } from '../support/random.ts'
import {
  openFiles,
  peakMemory,
  type ServerProcess,
  startServer,
} from '../support/servers/server-process.ts'
import { publish, wholeUpload } from './scene.ts'

const { FULL } = process.env
/** Connections of each kind of abuse. */
const ABUSERS = 200
const VANISHING = 100
/** Healthy requests that are timed. */
const REQUESTS = FULL ? 5000 : 1000
const MAX_P99_MS = 100
const MAX_RSS_BYTES = 500e6
/** After this, nothing is done any more for a client that has gone. On a machine that is busy otherwise, once in so many times at least. */
const GONE_MS = 200
const TRIES = 10
/** Between two looks: a look costs the server some milliseconds itself. */
const POLL_MS = 10
/** Larger than what sockets hold for a client that takes nothing. */
const SIZE = 16 * 1024 * 1024
const RANGE_BYTES = 64 * 1024
/** Between two bytes of a client that is slow. */
const TRICKLE_MS = 1000

const folder = t.testdir({})
const [base, tuned] = [join(folder, 'base'), join(folder, 'tuned')]
await makeModel(base, { size: SIZE, tensors: 8 })
await makeTuned(tuned, base)

/** A server with a fine-tune: what is asked of it keeps workers busy. */
async function serve(t: Test, env: Record<string, string> = {}) {
  const server = await startServer(t.testdir({}), env)
  t.teardown(() => server.kill())
  await publish(server, wholeUpload(base, { name: 'acme/base' }))
  const fields = { name: 'acme/tuned', parent: 'acme/base', strategy: 'int4' }
  return { server, model: await publish(server, wholeUpload(tuned, fields)) }
}

/** A client of one connection that is kept alive. */
class Client implements Disposable {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })
  readonly #url: string

  constructor({ url }: ServerProcess) {
    this.#url = url
  }

  async get(path: string, headers: Record<string, string> = {}) {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
    const asked = request(this.#url + path, { agent: this.#agent, headers }, resolve)
    asked.on('error', reject).end()
    const answer = await promise
    const chunks: Buffer[] = []
    for await (const chunk of answer) chunks.push(chunk)
    return { status: answer.statusCode!, bytes: Buffer.concat(chunks) }
  }

  /** The value of a gauge; 0 where it has none yet. */
  async gauge(name: string): Promise<number> {
    const lines = (await this.get('/metrics')).bytes.toString().split('\n')
    const line = lines.find(line => line.startsWith(`${name} `))
    return Number(line?.slice(name.length) ?? 0)
  }

  /** Downloads or uploads under way. */
  streams(direction: 'download' | 'upload'): Promise<number> {
    return this.gauge(`wdelta_http_streams{direction="${direction}"}`)
  }

  [Symbol.dispose](): void {
    this.#agent.destroy()
  }
}

type Behaviour = (socket: Socket) => void

/** A client that holds its connection as long as it can, and dials again when it is cut off. */
class Abuser implements Disposable {
  readonly #port: number
  readonly #behave: Behaviour
  #socket: Socket
  #gone = false

  constructor({ url }: ServerProcess, behave: Behaviour) {
    this.#port = Number(new URL(url).port)
    this.#behave = behave
    this.#socket = this.#dial()
  }

  [Symbol.dispose](): void {
    this.#gone = true
    this.#socket.destroy()
  }

  #dial(): Socket {
    const socket = connect(this.#port, '127.0.0.1')
    // A reset is one of the ways in which a server ends a connection.
    socket.on('error', () => {})
    socket.on('close', () => {
      if (!this.#gone) setTimeout(() => this.#again(), TRICKLE_MS)
    })
    this.#behave(socket)
    return socket
  }

  #again(): void {
    if (!this.#gone) this.#socket = this.#dial()
  }
}

/** Sends `head` and then a byte now and then. */
function trickle(head: string): Behaviour {
  return socket => {
    socket.write(head)
    const timer = setInterval(() => socket.write('x'), TRICKLE_MS)
    socket.on('close', () => clearInterval(timer))
    socket.resume()
  }
}

const slowHeader = trickle('GET /models HTTP/1.1\r\nHost: localhost\r\nX-Long: ')

const BODY = [
  '--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nacme/slow\r\n',
  '--b\r\nContent-Disposition: form-data; name="file"; filename="model.safetensors"\r\n\r\n',
].join('')
const slowBody = trickle(
  `POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000000\r\n\r\n${BODY}`,
)

/** Asks for a model until it gets it, and takes nothing of it. */
function stalledReader({ id }: Model): Behaviour {
  return socket => {
    const ask = () =>
      socket.write(`GET /models/${id}/reconstruct HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    ask()
    socket.on('data', bytes => {
      if (bytes.includes('HTTP/1.1 200')) socket.pause()
      else if (bytes.includes('HTTP/1.1 503')) setTimeout(ask, TRICKLE_MS)
    })
  }
}

function percentile(sorted: readonly number[], percent: number): number {
  return sorted[Math.ceil((sorted.length * percent) / 100) - 1]!
}

t.test(`${ABUSERS} slow heads, slow bodies and stalled readers each`, async t => {
  const { server, model } = await serve(t)
  using client = new Client(server)
  using abusers = new DisposableStack()
  for (const behave of [slowHeader, slowBody, stalledReader(model)]) {
    for (let i = 0; i < ABUSERS; i++) abusers.use(new Abuser(server, behave))
  }
  // As many as there are places for.
  while ((await client.streams('download')) < 48 || (await client.streams('upload')) < 16);
  const random = new Random(1)
  const times: number[] = []
  const statuses: Record<string, number> = {}
  for (let i = 0; i < REQUESTS; i++) {
    const start = random.below(model.size - RANGE_BYTES)
    const range = { range: `bytes=${start}-${start + RANGE_BYTES - 1}` }
    const began = performance.now()
    const { status } = await (i % 2 === 0
      ? client.get('/models')
      : client.get(`/models/${model.id}/reconstruct`, range))
    times.push(performance.now() - began)
    statuses[status] = (statuses[status] ?? 0) + 1
  }
  times.sort((a, b) => a - b)
  const [p50, p99] = [percentile(times, 50), percentile(times, 99)]
  t.comment(
    `p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms, at most ${times.at(-1)!.toFixed(1)} ms`,
  )
  t.strictSame(statuses, { 200: REQUESTS / 2, 206: REQUESTS / 2 })
  t.ok(p99 < MAX_P99_MS, `p99 is ${p99} ms`)
  const peak = peakMemory(readFileSync(`/proc/${server.pid}/status`, 'utf8'))
  t.comment(`RSS at most ${Math.round(peak / 1e6)} MB`)
  t.ok(peak < MAX_RSS_BYTES, `RSS was ${peak} bytes`)
})

/** What a process has open, without what tells one pipe or socket from another, and without what renewals of its lease touch every few seconds. */
function openKinds({ pid }: ServerProcess): string[] {
  return openFiles(pid)
    .filter(path => !path.includes('/owners/'))
    .map(path => path.replace(/:\[\d+\]$/, ''))
    .sort()
}

/** Downloads by clients that vanish, all at once, when together they have got a share of what they asked for. */
async function vanish({ url }: ServerProcess, { id, size }: Model, share: number): Promise<void> {
  const enough = Promise.withResolvers<void>()
  let received = 0
  const sockets = Array.from({ length: VANISHING }, () => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.write(`GET /models/${id}/reconstruct HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    socket.on('data', bytes => {
      received += bytes.length
      if (received >= share * VANISHING * size) enough.resolve()
    })
    socket.on('error', enough.reject)
    return socket
  })
  await enough.promise
  for (const socket of sockets) socket.destroy()
}

for (const share of [0, 0.01, 0.5, 0.9]) {
  t.test(`${VANISHING} clients that vanish at ${share * 100} %`, async t => {
    const { server, model } = await serve(t, { MAX_DOWNLOADS: String(VANISHING) })
    using client = new Client(server)
    t.equal((await client.get(`/models/${model.id}/reconstruct`)).bytes.length, model.size)
    const before = openKinds(server)
    const times: number[] = []
    while (times.length < TRIES && !times.some(ms => ms < GONE_MS)) {
      await vanish(server, model, share)
      const gone = performance.now()
      while (
        (await client.gauge('wdelta_worker_tasks')) > 0 ||
        (await client.streams('download')) > 0
      ) {
        await sleep(POLL_MS)
      }
      times.push(performance.now() - gone)
      t.strictSame(openKinds(server), before, 'nothing else is open')
    }
    t.ok(Math.min(...times) < GONE_MS, `nothing is done after ${times.join(', ')} ms`)
  })
}
