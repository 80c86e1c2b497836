/**
 * Clients that go away in the middle of what they asked for, or sent, a few at a time. Afterwards the registry is as it was: its memory, and
 * what it does for those who come next.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Model } from '../../src/registry/registry.ts'
import type { Random } from '../support/random.ts'
import { FakeS3 } from '../support/servers/fake-s3.ts'
import { FORM_TYPE, formOf } from '../support/servers/forms.ts'
import { peakMemory, type ServerProcess, startServer } from '../support/servers/server-process.ts'
import { type Fresh, FreshModels, sendFresh } from './fresh-models.ts'

const { FULL } = process.env
const CUTS = FULL ? 20_000 : 600
/** By then all that is kept to be used again is there. */
const WARM = FULL ? 500 : 300
const MAX_GROWTH_BYTES = 60e6
const MAX_RSS_BYTES = 500e6
const SIZE = 8_000_000
const AT_ONCE = 10
/** A tensor of every model, a quarter of it. */
const TENSOR = 'model.layers.0.mlp.down_proj.weight'
/** What clients ask for when they do not go away; of so many cuts, after one. */
const WHOLE_EVERY = 250
/** Longest time that a client waits for what it wants before it goes at any rate, milliseconds. */
const PATIENCE_MS = 1000

/** What a client sends, and how many bytes of an answer it takes before it goes. */
interface Client {
  readonly head: string
  readonly body?: Buffer
  readonly takes: number
}

/** The models that clients ask for. */
interface Published {
  readonly base: Model
  readonly lossless: Model
  readonly lossy: Model
  /** Of what `lossless` is when it is reconstructed. */
  readonly sha256: string
}

async function publishAll(server: ServerProcess, fresh: FreshModels): Promise<Published> {
  const send = async (model: Fresh) => {
    const answer = await sendFresh(server, model)
    if (answer.status !== 201) throw new Error(`expected 201, got ${await answer.text()}`)
    return (await answer.json()) as Model
  }
  const tuned = fresh.tuned('acme/lossless', 'acme/base', 'lossless')
  return {
    base: await send(fresh.base('acme/base')),
    lossless: await send(tuned),
    lossy: await send(fresh.tuned('acme/lossy', 'acme/base', 'int4')),
    sha256: tuned.sha256!,
  }
}

/** A download: of all there is, of ranges, of every kind of content. */
function download(random: Random, { base, lossless, lossy }: Published): Client {
  const { id } = random.pick([base, lossless, lossless, lossy])
  const { id: delta } = random.pick([lossless, lossy])
  const start = random.below(SIZE)
  const range = `Range: bytes=${start}-${start + random.below(3_000_000)}\r\n`
  const reconstruct = `/models/${id}/reconstruct`
  const [path, header = ''] = random.pick([
    [reconstruct],
    [reconstruct],
    [reconstruct, range],
    [reconstruct, range],
    [reconstruct, range],
    [`${reconstruct}?dtype=float32`],
    [`/models/${id}/files/model.safetensors`],
    [`/models/${id}/tensors/${TENSOR}`, range],
    [`/models/${delta}/delta`],
    ['/admin/backup'],
  ] as const)
  const method = path.startsWith('/models') && random.chance(5) ? 'HEAD' : 'GET'
  // A quarter are gone when the first bytes come.
  const takes = random.chance(25) ? 0 : random.below(SIZE)
  return { head: `${method} ${path} HTTP/1.1\r\n${header}`, takes }
}

/** An upload that ends in the middle of its file. */
function upload(random: Random, forms: readonly Buffer[]): Client {
  const form = random.pick(forms)
  const head = `POST /models HTTP/1.1\r\nContent-Type: ${FORM_TYPE}\r\nContent-Length: ${form.length}\r\n`
  return { head, body: form.subarray(0, random.below(form.length)), takes: 0 }
}

/** What is never published: whoever sends it goes before its end. */
function cutForms(fresh: FreshModels): Buffer[] {
  const models = [
    fresh.base('acme/cut'),
    fresh.tuned('acme/cut', 'acme/base', 'lossless'),
    fresh.tuned('acme/cut', 'acme/base', 'int4'),
  ]
  return models.map(({ fields, bytes }) =>
    formOf([...Object.entries(fields), ['file', bytes, 'model.safetensors']]),
  )
}

const SCRUB: Client = { head: 'POST /admin/scrub HTTP/1.1\r\n', takes: 0 }

function drawClient(random: Random, published: Published, forms: readonly Buffer[]): Client {
  if (random.chance(1)) return SCRUB
  return random.chance(20) ? upload(random, forms) : download(random, published)
}

/** Does what a client does, and goes. Resolves with what it is refused with, null where it is not. */
function goAway({ url }: ServerProcess, { head, body, takes }: Client): Promise<string | null> {
  const { hostname, port, host } = new URL(url)
  const { promise, resolve } = Promise.withResolvers<string | null>()
  const socket = connect(Number(port), hostname)
  let refusal: string | null = null
  let taken = 0
  const timer = setTimeout(() => socket.destroy(), PATIENCE_MS)
  socket.on('data', chunk => {
    if (taken === 0) refusal = refusalOf(chunk)
    taken += chunk.length
    if (taken > takes) socket.destroy()
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    clearTimeout(timer)
    resolve(refusal)
  })
  socket.write(`${head}Host: ${host}\r\nConnection: close\r\n\r\n`)
  // Nobody answers an upload that is not there yet.
  if (body) socket.write(body, () => socket.destroy())
  return promise
}

/** What an answer refuses; null for one that does not, and for a range behind the end of a tensor. */
function refusalOf(head: Buffer): string | null {
  const text = head.toString('latin1')
  if (/^HTTP\/1\.1 (2\d\d|100|416) /.test(text)) return null
  return /"(detail|code)":"[^"]*"/.exec(text)?.[0] ?? text
}

/** Resident memory of a server, bytes. Source: proc(5), `VmRSS`. */
function residentMemory({ pid }: ServerProcess): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) * 1024
}

/** Downloads a model and publishes one: both must go as ever. */
async function askWhole(t: Test, server: ServerProcess, { lossless, sha256 }: Published) {
  const answer = await fetch(`${server.url}/models/${lossless.id}/reconstruct`)
  const bytes = await answer.bytes()
  if (answer.status !== 200) t.fail(`a download was answered ${answer.status}`)
  const found = createHash('sha256').update(bytes).digest('hex')
  if (found !== sha256) t.fail('a download has other bytes')
}

/** Lets clients come and go, and tells how much memory the server has after `WARM` of them and after each part. */
async function cutAll(t: Test, server: ServerProcess, fresh: FreshModels): Promise<void> {
  const published = await publishAll(server, fresh)
  const { random } = fresh
  const forms = cutForms(fresh)
  const refused: string[] = []
  let warm = 0
  for (let cut = 0; cut < CUTS; cut += AT_ONCE) {
    const clients = Array.from({ length: AT_ONCE }, () => drawClient(random, published, forms))
    const answers = await Promise.all(clients.map(client => goAway(server, client)))
    refused.push(...answers.filter(answer => answer !== null))
    if (cut % WHOLE_EVERY === 0) await askWhole(t, server, published)
    if (cut + AT_ONCE === WARM) warm = residentMemory(server)
    if ((cut + AT_ONCE) % (CUTS / 10) === 0) {
      t.comment(`after ${cut + AT_ONCE}: RSS ${Math.round(residentMemory(server) / 1e6)} MB`)
    }
  }
  const grown = residentMemory(server) - warm
  const peak = peakMemory(readFileSync(`/proc/${server.pid}/status`, 'utf8'))
  t.comment(`RSS after ${WARM}: ${Math.round(warm / 1e6)} MB, peak ${Math.round(peak / 1e6)} MB`)
  t.ok(grown < MAX_GROWTH_BYTES, `RSS grew by ${Math.round(grown / 1e6)} MB`)
  t.strictSame(refused, [], 'nobody was refused')
  t.equal((await sendFresh(server, fresh.base('acme/last'))).status, 201)
  t.equal((await fetch(`${server.url}/readyz`)).status, 200)
}

/** Where what is published is kept. */
async function bucketEnv(t: Test): Promise<Record<string, string>> {
  const fake = await FakeS3.start()
  t.teardown(() => fake[Symbol.asyncDispose]())
  const { endpoint, bucket, accessKeyId, secretAccessKey } = fake.options()
  return {
    STORAGE: 's3',
    S3_ENDPOINT: endpoint!,
    S3_BUCKET: bucket,
    S3_ACCESS_KEY_ID: accessKeyId,
    S3_SECRET_ACCESS_KEY: secretAccessKey,
    // What clients ask for, with little room for what they upload.
    S3_CACHE_BYTES: String(50_000_000),
  }
}

const scenes = [
  { title: 'a folder', env: async () => ({}) },
  { title: 'a bucket behind its cache', env: bucketEnv },
]
// The limit takes nothing away from the test without one: that one is in the full suite only.
const limits = [...(FULL ? [{}] : []), { MAX_RSS_BYTES: String(MAX_RSS_BYTES) }]
for (const { title, env } of scenes) {
  for (const limit of limits) {
    const limited = 'MAX_RSS_BYTES' in limit ? ` within ${MAX_RSS_BYTES / 1e6} MB` : ''
    t.test(`${CUTS} clients of ${title} go away${limited}`, async t => {
      const folder = t.testdir({})
      const server = await startServer(join(folder, 'data'), { ...limit, ...(await env(t)) })
      t.teardown(() => server.kill())
      await cutAll(t, server, await FreshModels.make(folder, SIZE, 1))
    })
  }
}
