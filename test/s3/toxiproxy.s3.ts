import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { RegistryError } from '../../src/errors.ts'
import { newBlobKey } from '../../src/storage/blob-key.ts'
import type { BlobStore } from '../../src/storage/blob-store.ts'
import { openS3BlobStore } from '../../src/storage/s3/blob-store.ts'
import type { S3Options } from '../../src/storage/s3/client.ts'
import { pattern, put } from '../storage/s3/fault-scripts.ts'
import { weights } from '../support/models/weights.ts'
import { startServer } from '../support/servers/server-process.ts'
import { contentsOf, download, environment, publish } from './over-http.ts'
import { SERVER_NAMES, startS3Server, startToxiproxy, type Toxic } from './servers.ts'

t.setTimeout(600_000)

/** Short, so that what hangs is soon over. */
const TIMEOUTS = { connectMs: 3000, answerMs: 5000, idleMs: 1500, totalMs: 10_000, workMs: 4000 }
/** No operation of the store takes longer, whatever becomes of its connections: one that fails asks for four things. Milliseconds. */
const LONGEST_MS = 4 * TIMEOUTS.totalMs
/** How long an outage is, milliseconds: shorter than the pauses between four tries. */
const OUTAGE_MS = 150
const HOUR_MS = 3_600_000
const SMALL = pattern(100_000, 1)
/** Of two parts. */
const LARGE = pattern(20_000_000, 2)

interface Scene {
  readonly store: BlobStore
  /** Where the bytes `LARGE` are. */
  readonly old: string
  /** Where something new may go. */
  readonly key: string
}

/** What is asked of a store. Each resolves with whether it was done right. */
const OPERATIONS = {
  put: async ({ store, key }: Scene) => (await put(store, SMALL, key)) === key,
  multipart: async ({ store, key }: Scene) => (await put(store, LARGE, key)) === key,
  get: async ({ store, old }: Scene) => {
    const read = await store.read(old, { start: 0, end: LARGE.length })
    return Buffer.compare(read, LARGE) === 0
  },
  head: async ({ store, old }: Scene) => (await store.size(old)) === LARGE.length,
  list: async ({ store, old }: Scene) => {
    const [found] = await Array.fromAsync(store.list(old))
    return found?.size === LARGE.length
  },
  delete: ({ store, key }: Scene) => store.delete([key]).then(() => true),
}
type Operation = keyof typeof OPERATIONS
const ALL = Object.keys(OPERATIONS) as Operation[]

interface Weather {
  readonly name: string
  readonly toxics: readonly Toxic[]
  /** What cannot be done in it; all else is done right. */
  readonly fails: readonly Operation[]
}

const both = (type: string, attributes: Toxic['attributes']): Toxic[] => [
  { type, stream: 'upstream', attributes },
  { type, stream: 'downstream', attributes },
]
const down = (type: string, attributes: Toxic['attributes']): Toxic[] => [{ type, attributes }]
const up = (type: string, attributes: Toxic['attributes']): Toxic[] => [
  { type, stream: 'upstream', attributes },
]

const WEATHERS: readonly Weather[] = [
  { name: 'latency', toxics: both('latency', { latency: 100, jitter: 80 }), fails: [] },
  { name: 'bandwidth', toxics: both('bandwidth', { rate: 8000 }), fails: [] },
  {
    name: 'slicer',
    toxics: both('slicer', { average_size: 4000, size_variation: 3000, delay: 10 }),
    fails: [],
  },
  { name: 'slow_close', toxics: both('slow_close', { delay: 500 }), fails: [] },
  { name: 'limit_data downstream', toxics: down('limit_data', { bytes: 3_000_000 }), fails: [] },
  {
    name: 'limit_data upstream',
    toxics: up('limit_data', { bytes: 3_000_000 }),
    fails: ['multipart'],
  },
  { name: 'timeout downstream', toxics: down('timeout', { timeout: 0 }), fails: ALL },
  { name: 'timeout upstream', toxics: up('timeout', { timeout: 0 }), fails: ALL },
  { name: 'timeout that closes', toxics: both('timeout', { timeout: 300 }), fails: ALL },
  { name: 'reset_peer downstream', toxics: down('reset_peer', { timeout: 0 }), fails: ALL },
  { name: 'reset_peer upstream', toxics: up('reset_peer', { timeout: 0 }), fails: ALL },
]

/** A store through a proxy, and one that looks at the bucket past it. */
async function start(t: Test, options: S3Options) {
  const proxy = await startToxiproxy(options.endpoint!)
  t.teardown(() => proxy[Symbol.asyncDispose]())
  const direct = await openS3BlobStore(options)
  t.teardown(() => direct.close())
  const store = await openS3BlobStore({ ...options, endpoint: proxy.url, timeouts: TIMEOUTS })
  t.teardown(() => store.close())
  return { proxy, direct, store }
}

async function outcomeOf(done: Promise<boolean>): Promise<string> {
  try {
    return (await done) ? 'ok' : 'not what it should be'
  } catch (error) {
    if (error instanceof RegistryError) return error.code
    throw error
  }
}

async function endure(t: Test, options: S3Options, { toxics, fails }: Weather): Promise<void> {
  const { proxy, direct, store } = await start(t, options)
  const old = await put(direct, LARGE)
  for (const toxic of toxics) await proxy.add(toxic)
  const keys = new Map(ALL.map(name => [name, newBlobKey()]))
  const asked = ALL.map(async name => {
    const began = performance.now()
    const scene = { store, old, key: keys.get(name)! }
    const outcome = await outcomeOf(OPERATIONS[name](scene))
    const took = Math.round(performance.now() - began)
    t.equal(outcome, fails.includes(name) ? 'storage-unavailable' : 'ok', name)
    t.ok(took < LONGEST_MS, `${took} ms`)
  })
  await Promise.all(asked)

  await proxy.clear()
  t.ok(await OPERATIONS.put({ store, old, key: newBlobKey() }), 'the next goes well')
  for (const [name, content] of [
    ['put', SMALL],
    ['multipart', LARGE],
  ] as const) {
    const key = keys.get(name)!
    // What failed may be there, if its end could not be heard: then the registry's sweep takes it.
    const found = await direct.read(key, { start: 0, end: content.length }).then(
      read => (Buffer.compare(read, content) === 0 ? 'whole' : 'something else'),
      error => error.code,
    )
    t.match(found, fails.includes(name) ? /^(whole|blob-missing)$/ : 'whole')
  }
  await store.sweepStaged(new Date(Date.now() + HOUR_MS), false)
  t.strictSame((await contentsOf(options)).uploads, [])
}

/** Nothing gets through for a moment, in the middle of everything. */
async function outage(t: Test, options: S3Options): Promise<void> {
  const { proxy, direct, store } = await start(t, options)
  const old = await put(direct, LARGE)
  const asked = ALL.map(name => outcomeOf(OPERATIONS[name]({ store, old, key: newBlobKey() })))
  for (const toxic of both('timeout', { timeout: 0 })) await proxy.add(toxic)
  await sleep(OUTAGE_MS)
  await proxy.clear()
  t.strictSame(
    await Promise.all(asked),
    ALL.map(() => 'ok'),
  )
}

async function givenUp(t: Test, options: S3Options): Promise<void> {
  const { proxy, direct, store } = await start(t, options)
  const old = await put(direct, LARGE)
  await proxy.add({ type: 'timeout', attributes: { timeout: 0 } })
  const abort = new AbortController()
  const reads = Array.from({ length: 20 }, () =>
    store.read(old, { start: 0, end: LARGE.length }, abort.signal),
  )
  const ended = Promise.allSettled(reads)
  await sleep(OUTAGE_MS)
  const began = performance.now()
  abort.abort(new Error('gone'))
  for (const read of await ended) t.match(read, { reason: { message: 'gone' } })
  t.ok(performance.now() - began < 1000, 'at once')
}

/** A registry whose connections to its bucket are slow, in pieces and cut all the time. */
async function registryInBadWeather(t: Test, options: S3Options): Promise<void> {
  await using proxy = await startToxiproxy(options.endpoint!)
  const env = environment({ ...options, endpoint: proxy.url })
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-toxic-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  await proxy.add({ type: 'reset_peer', attributes: { timeout: 0 } })
  await t.rejects(startServer(folder, env), { message: /storage-unavailable/ })
  await proxy.clear()

  const registry = await startServer(folder, env)
  t.teardown(() => registry.kill())
  const isReady = async () => (await fetch(`${registry.url}/readyz`)).status
  t.equal(await isReady(), 200)
  const bad = [
    { type: 'latency', attributes: { latency: 20, jitter: 20 } },
    { type: 'slicer', attributes: { average_size: 8000, size_variation: 4000, delay: 10 } },
    { type: 'limit_data', attributes: { bytes: 1_500_000 } },
  ]
  for (const toxic of bad) await proxy.add(toxic)
  const base = Buffer.from(weights(1))
  const tokenizer = Buffer.from(LARGE)
  const files = { 'model.safetensors': base, 'tokenizer.json': tokenizer }
  const { id: parent } = await publish(registry, { name: 'acme/base' }, files)
  const tuned = { 'model.safetensors': Buffer.from(weights(2, base)) }
  const { id, sha256 } = await publish(registry, { name: 'acme/tuned', parent }, tuned)
  const stream = await download(registry, `/models/${id}/reconstruct`)
  t.equal(createHash('sha256').update(stream).digest('hex'), sha256)
  t.ok(stream.equals(tuned['model.safetensors']))
  const side = await download(registry, `/models/${parent}/files/tokenizer.json`)
  t.ok(side.equals(tokenizer))

  await proxy.add({ type: 'reset_peer', attributes: { timeout: 0 } })
  t.equal(await isReady(), 503)
  await proxy.clear()
  // What the store said last counts for a second.
  while ((await isReady()) !== 200);
  t.strictSame((await contentsOf(options)).uploads, [])
}

for (const name of SERVER_NAMES) {
  t.test(name, async t => {
    await using server = await startS3Server(name)
    let serial = 0
    const bucket = () => server.bucket(`toxic-${serial++}`)
    for (const weather of WEATHERS) {
      await t.test(weather.name, async t => endure(t, await bucket(), weather))
    }
    await t.test('an outage of a moment', async t => outage(t, await bucket()))
    await t.test('reads that are given up', async t => givenUp(t, await bucket()))
    await t.test('a registry', async t => registryInBadWeather(t, await bucket()))
  })
}
