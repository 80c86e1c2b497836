import t, { type Test } from 'tap'
import { RegistryError } from '../../../src/errors.ts'
import { newBlobKey } from '../../../src/storage/blob-key.ts'
import { openS3BlobStore } from '../../../src/storage/s3/blob-store.ts'
import type { S3Options } from '../../../src/storage/s3/client.ts'
import { refusal } from '../../support/servers/fake-bucket.ts'
import { FakeS3 } from '../../support/servers/fake-s3.ts'
import {
  CELLS,
  type Cell,
  LARGE,
  mayLeaveUpload,
  once,
  pattern,
  put,
  SMALL,
  STORED,
} from './fault-scripts.ts'

/** Short, so that what hangs is soon over; long enough for a busy machine, with many operations at once. */
const TIMEOUTS = { connectMs: 3000, answerMs: 3000, idleMs: 1500, totalMs: 6000, workMs: 4000 }
/** No operation of the store takes longer, whatever goes wrong: some ask for several things in a row. Milliseconds. */
const LONGEST_MS = 3 * TIMEOUTS.totalMs
/** Requests that may fail before an operation does; each may cost a connection. */
const MAX_TRIES = 12
/** How soon a server hears that connections are closed, milliseconds. */
const CLOSED_MS = 5000
/** Operations at once: most of them wait. */
const WIDTH = 24
const HOUR_MS = 3_600_000

async function open(t: Test, timeouts: S3Options['timeouts'] = TIMEOUTS) {
  const fake = await FakeS3.start()
  t.teardown(() => fake[Symbol.asyncDispose]())
  const store = await openS3BlobStore(fake.options({ timeouts }))
  t.teardown(() => store.close())
  return { fake, store }
}

/** True once the condition holds; false if it does not for `CLOSED_MS`. */
async function soon(condition: () => boolean): Promise<boolean> {
  const until = performance.now() + CLOSED_MS
  while (!condition() && performance.now() < until) {
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  return condition()
}

async function play(t: Test, cell: Cell): Promise<void> {
  const { column, wrong } = cell
  const { fake, store } = await open(t)
  const [old, key, next] = [newBlobKey(), newBlobKey(), newBlobKey()]
  fake.bucket.put(old, STORED)
  if (wrong === 'no listener') await fake.refuseConnections()
  else if ('clockAheadMs' in wrong) fake.clockAheadMs = wrong.clockAheadMs
  else fake.script({ on: column.on, ...wrong })

  const began = performance.now()
  const outcome = await column.run({ store, old, key }).then(
    isRight => (isRight ? 'ok' : 'not what it should be'),
    error => (error instanceof RegistryError ? error.code : error),
  )
  const took = Math.round(performance.now() - began)
  t.equal(outcome, cell.outcome)
  t.ok(took < LONGEST_MS, `${took} ms`)
  if (wrong !== 'no listener' && 'fault' in wrong) t.ok(fake.struck > 0, 'it did go wrong')

  fake.heal()
  t.ok(await soon(() => fake.underWay === 0), 'connections that failed are closed')
  t.ok(fake.struck <= MAX_TRIES, `${fake.struck} tries`)
  t.ok(fake.mostConnections <= MAX_TRIES, `${fake.mostConnections} connections`)
  const stored = fake.bucket.objects.get(key)?.bytes
  const isWhole = stored && Buffer.compare(stored, column.stores!) === 0
  t.equal(isWhole, outcome === 'ok' && column.stores ? true : undefined, 'whole or not there')
  const left = [...fake.bucket.uploads.values()].filter(upload => upload.key === key)
  if (!mayLeaveUpload(cell)) t.strictSame(left, [], 'no upload is left')

  if (wrong !== 'no listener') {
    await put(store, SMALL, next)
    t.ok(fake.bucket.objects.has(next), 'the next goes well')
    await store.sweepStaged(new Date(Date.now() + 2 * HOUR_MS), false)
    t.equal(fake.bucket.uploads.size, 0, 'the sweep takes what was left')
  }
  await store.close()
  t.ok(await soon(() => fake.connections === 0), 'all connections are closed')
}

await t.test('reads that are given up keep no connection', async t => {
  const { fake, store } = await open(t, {})
  const key = newBlobKey()
  fake.bucket.put(key, STORED)
  const range = { start: 0, end: STORED.length }
  fake.script({ on: 'GetObject', fault: { kind: 'cut', after: 1000, end: 'stall' } })
  // Far more than a client has connections, in groups that it has enough for.
  for (let n = 0; n < 5; n++) {
    const abort = new AbortController()
    const reads = Array.from({ length: 100 }, () => store.read(key, range, abort.signal))
    const failed = Promise.allSettled(reads)
    t.ok(await soon(() => fake.underWay === reads.length))
    abort.abort(new Error('gone'))
    for (const read of await failed) t.match(read, { reason: { message: 'gone' } })
  }
  fake.heal()
  const began = performance.now()
  const sizes = await Promise.all(Array.from({ length: 50 }, () => store.size(key)))
  t.ok(performance.now() - began < 1000, 'and none that others wait for')
  t.ok(sizes.every(size => size === STORED.length))
  t.ok(await soon(() => fake.underWay === 0))
})

await t.test('a read does not go on in another blob', async t => {
  const { fake, store } = await open(t)
  const key = newBlobKey()
  fake.bucket.put(key, STORED)
  const fault = { kind: 'cut', after: 50_000, end: 'stall' } as const
  fake.script({ on: 'GetObject', fault, times: 1 })
  const reading = store.read(key, { start: 0, end: STORED.length })
  const rejected = t.rejects(reading, { code: 'storage-failed' })
  t.ok(await soon(() => fake.struck === 1))
  fake.bucket.put(key, pattern(STORED.length, 4))
  await rejected
})

await t.test('a server may work on a completion in silence', async t => {
  const { fake, store } = await open(t)
  const ms = 2 * TIMEOUTS.idleMs
  fake.script({ on: 'CompleteMultipartUpload', fault: { kind: 'late', ms } })
  const key = await put(store, LARGE)
  t.equal(fake.requests('CompleteMultipartUpload'), 1)
  t.equal(await store.size(key), LARGE.length)
})

await t.test('of several parts one fails for good: the others go too', async t => {
  const { fake, store } = await open(t)
  const answer = refusal(500, 'InternalError')
  const refused = { on: 'UploadPart', fault: { kind: 'refuse', answer } } as const
  // The first part is half of what may be under way: more is asked for, and refused as well.
  fake.script(refused)
  await t.rejects(put(store, pattern(40_000_000, 5)), { code: 'storage-unavailable' })
  t.equal(fake.bucket.uploads.size, 0)
  fake.heal()
  fake.script({ ...refused, times: 2 })
  const content = pattern(40_000_000, 6)
  const key = await put(store, content)
  t.equal(Buffer.compare(fake.bucket.objects.get(key)!.bytes, content), 0)
})

await t.test('a list that is behind tells of what was', async t => {
  const { fake, store } = await open(t)
  const old = await put(store, SMALL)
  fake.script({ on: 'ListObjectsV2', fault: { kind: 'stale' } })
  fake.script({ on: 'ListMultipartUploads', fault: { kind: 'stale' } })
  const staged = await store.stage(newBlobKey(), once(LARGE))
  await store.delete([old])
  const found = await Array.fromAsync(store.list('blobs/'), ({ key }) => key)
  t.strictSame(found, [old])
  await t.rejects(store.read(old, { start: 0, end: 1 }), { code: 'blob-missing' })
  await staged.abort()
})

await t.test('a sweep does not mind uploads that have ended', async t => {
  const { fake, store } = await open(t)
  const other = await openS3BlobStore(fake.options({ timeouts: TIMEOUTS }))
  t.teardown(() => other.close())
  const staged = await store.stage(newBlobKey(), once(LARGE))
  const left = await store.stage(newBlobKey(), once(LARGE))
  fake.script({ on: 'ListMultipartUploads', fault: { kind: 'stale' } })
  await staged.commit()
  const later = new Date(Date.now() + HOUR_MS)
  for (const dryRun of [true, false]) {
    const swept = await other.sweepStaged(later, dryRun)
    t.strictSame(
      swept.map(({ size }) => size),
      [LARGE.length],
    )
  }
  t.equal(fake.bucket.uploads.size, 0)
  await t.rejects(left.commit(), { code: 'storage-failed' })
})

// One at a time until here: some look at the time.
t.jobs = WIDTH
for (const cell of CELLS) t.test(cell.name, { buffered: true }, t => play(t, cell))
