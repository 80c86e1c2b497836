import {
  globSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { ByteRange } from '../../../src/codec/base/ranges.ts'
import { newBlobKey } from '../../../src/storage/blob-key.ts'
import type { BlobStore } from '../../../src/storage/blob-store.ts'
import { CHUNK_BYTES, openCachedBlobStore } from '../../../src/storage/cache/blob-store.ts'
import { openStoreAfar } from '../../support/servers/store-afar.ts'
import { blobStoreContract } from '../blob-store-contract.ts'

const PLENTY = 2 ** 30
/** Chunks that a cache may ask for beyond what its readers want. */
const AHEAD = 12
/** Runs of chunks that a cache fetches at once. */
const MAX_RUNS = 12

blobStoreContract(t, async test => {
  // `testdir` would be removed before the store is closed, and a cache may be writing until then.
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-cache-'))
  test.teardown(() => rmSync(folder, { recursive: true }))
  return async () => {
    const afar = await openStoreAfar(join(folder, 'store'))
    const store = await openCachedBlobStore(afar, join(folder, 'cache'), PLENTY)
    test.teardown(() => store.close())
    return store
  }
})

/** Bytes that differ from chunk to chunk. */
function content(size: number): Buffer {
  const bytes = Buffer.alloc(size)
  for (let at = 0; at + 4 <= size; at += 4) bytes.writeUInt32LE((at * 2_654_435_761) >>> 0, at)
  return bytes
}

async function put(store: BlobStore, bytes: Uint8Array): Promise<string> {
  const key = newBlobKey()
  const body = (async function* () {
    yield bytes
  })()
  await (await store.stage(key, body)).commit()
  return key
}

/** The chunks that were fetched, in the order in which they were asked for. */
function chunksOf({ reads }: { reads: readonly ByteRange[] }): number[] {
  return reads.flatMap(({ start, end }) => {
    const first = start / CHUNK_BYTES
    return Array.from({ length: Math.ceil((end - start) / CHUNK_BYTES) }, (_, i) => first + i)
  })
}

async function scene(t: Test, { chunks = 3, most = PLENTY } = {}) {
  const folder = t.testdir()
  const afar = await openStoreAfar(join(folder, 'store'))
  const cacheFolder = join(folder, 'cache')
  const open = () => openCachedBlobStore(afar, cacheFolder, most)
  const store = await open()
  const bytes = content(chunks * CHUNK_BYTES - 1000)
  const key = await put(store, bytes)
  /** The files of the cache, in the order of the chunks. */
  const files = () =>
    globSync(join(cacheFolder, '**/*'))
      .filter(path => statSync(path).isFile())
      .sort()
  return { folder, cacheFolder, afar, open, store, bytes, key, files }
}

/** Reads a blob from one end to the other, some bytes at a time, and compares. */
async function readThrough(t: Test, store: BlobStore, key: string, bytes: Buffer, step = 700_001) {
  for (let start = 0; start < bytes.length; start += step) {
    const end = Math.min(start + step, bytes.length)
    const read = await store.read(key, { start, end })
    if (Buffer.compare(read, bytes.subarray(start, end)) !== 0) t.fail(`${start}..${end} differ`)
  }
}

t.test('what was read once is read from the disk, also by the next process', async t => {
  const { afar, open, store, bytes, key, files } = await scene(t)
  await readThrough(t, store, key, bytes)
  t.strictSame(chunksOf(afar).sort(), [0, 1, 2], 'each chunk was fetched once')
  t.equal(store.cache!.misses + store.cache!.hits >= 7, true)
  await store.close()
  t.equal(files().length, 3)
  const next = await open()
  t.equal(next.cache!.bytes, bytes.length)
  const before = afar.reads.length
  await readThrough(t, next, key, bytes)
  t.equal(afar.reads.length, before)
  t.match(next.cache!, { misses: 0, corrupt: 0 })
  await next.close()
})

t.test('readers of one chunk at once fetch it once', async t => {
  const { afar, store, bytes, key } = await scene(t, { chunks: 1 })
  const reads = Array.from({ length: 20 }, (_, i) =>
    store.read(key, { start: i * 1000, end: i * 1000 + 500 }),
  )
  for (const [i, read] of (await Promise.all(reads)).entries()) {
    t.equal(Buffer.compare(read, bytes.subarray(i * 1000, i * 1000 + 500)), 0)
  }
  t.equal(afar.reads.length, 1)
  await store.close()
})

t.test('a reader that goes through a blob is fetched for in advance, within bounds', async t => {
  const { afar, store, bytes, key } = await scene(t, { chunks: 40 })
  let reached = 0
  let requests = 0
  afar.onRead = ({ end }) => {
    requests++
    t.ok(end <= reached + (1 + AHEAD) * CHUNK_BYTES, `${end} when ${reached} was reached`)
  }
  for (; reached < bytes.length; reached += CHUNK_BYTES) {
    await store.read(key, { start: reached, end: Math.min(reached + 10, bytes.length) })
  }
  t.strictSame(
    chunksOf(afar).sort((x, y) => x - y),
    Array.from({ length: 40 }, (_, i) => i),
    'nothing is fetched twice',
  )
  t.ok(requests < 20, 'several chunks at once')
  await store.close()
})

t.test('one range in the middle fetches its chunk alone', async t => {
  const { afar, store, bytes, key } = await scene(t, { chunks: 12 })
  const start = 7 * CHUNK_BYTES + 5
  const read = await store.read(key, { start, end: start + 10 })
  t.equal(Buffer.compare(read, bytes.subarray(start, start + 10)), 0)
  t.strictSame(afar.reads, [{ start: 7 * CHUNK_BYTES, end: 8 * CHUNK_BYTES }])
  await store.close()
})

t.test('a cache stays within its limit', async t => {
  const most = 4 * CHUNK_BYTES
  const { store, bytes, key, files } = await scene(t, { chunks: 20, most })
  await readThrough(t, store, key, bytes)
  await store.close()
  t.ok(store.cache!.bytes <= most)
  const onDisk = files().reduce((sum, path) => sum + statSync(path).size, 0)
  t.equal(onDisk, store.cache!.bytes, 'the folder holds what is counted')
})

t.test('what was used longest ago makes room', async t => {
  const { store, key, cacheFolder } = await scene(t, { chunks: 20, most: 4 * CHUNK_BYTES })
  const onDisk = () =>
    readdirSync(join(cacheFolder, key))
      .map(name => Number.parseInt(name, 10))
      .sort((a, b) => a - b)
  for (const chunk of [1, 3, 5, 7, 9]) {
    await store.read(key, { start: chunk * CHUNK_BYTES, end: chunk * CHUNK_BYTES + 1 })
  }
  while (onDisk().length > 4) await setImmediate()
  t.strictSame(onDisk(), [3, 5, 7, 9])
  await store.close()
})

t.test('a smaller limit is kept to from the start', async t => {
  const { cacheFolder, afar, store, bytes, key } = await scene(t)
  await readThrough(t, store, key, bytes)
  await store.close()
  const smaller = await openCachedBlobStore(afar, cacheFolder, CHUNK_BYTES)
  t.ok(smaller.cache!.bytes <= CHUNK_BYTES)
  await readThrough(t, smaller, key, bytes)
  await smaller.close()
})

t.test('without room nothing is kept, and reads go on', async t => {
  const { store, bytes, key, files } = await scene(t, { most: 0 })
  await readThrough(t, store, key, bytes)
  await store.close()
  t.strictSame(files(), [])
})

t.test('wrong bytes of a chunk are evicted by who finds them', async t => {
  const { afar, open, store, bytes, key, files } = await scene(t)
  await readThrough(t, store, key, bytes)
  await store.close()
  const bad = readFileSync(files()[1]!)
  bad[100]! ^= 1
  writeFileSync(files()[1]!, bad)
  const next = await open()
  const at = CHUNK_BYTES + 100
  const [wrong] = await next.read(key, { start: at, end: at + 1 })
  t.equal(wrong, bytes[at]! ^ 1)
  await next.evict(key, at)
  t.equal(next.cache!.corrupt, 1)
  const before = afar.reads.length
  const [right] = await next.read(key, { start: at, end: at + 1 })
  t.equal(right, bytes[at])
  t.equal(afar.reads.length, before + 1)
  await next.close()
  t.equal(
    Buffer.compare(readFileSync(files()[1]!), bytes.subarray(CHUNK_BYTES, 2 * CHUNK_BYTES)),
    0,
  )
})

t.test('a chunk that is short, or gone, is fetched again', async t => {
  const { afar, open, store, bytes, key, files } = await scene(t)
  await readThrough(t, store, key, bytes)
  await store.close()
  truncateSync(files()[0]!, 1000)
  const next = await open()
  rmSync(files()[1]!)
  const before = afar.reads.length
  await readThrough(t, next, key, bytes)
  t.ok(afar.reads.length > before)
  await readThrough(t, next, key, bytes)
  await next.close()
  t.equal(next.cache!.bytes, bytes.length, 'and is there again')
  await next.close()
})

t.test('what another one left in the folder is no chunk', async t => {
  const { cacheFolder, open, store, bytes, key, files } = await scene(t)
  await store.close()
  writeFileSync(join(cacheFolder, '.new-0123456789abcdef'), 'half a chunk')
  const next = await open()
  t.strictSame(files(), [])
  t.equal(next.cache!.bytes, 0)
  await readThrough(t, next, key, bytes)
  await next.close()
})

t.test('a disk that takes nothing stops no read', async t => {
  const { cacheFolder, store, bytes, key } = await scene(t)
  rmSync(cacheFolder, { recursive: true })
  writeFileSync(cacheFolder, 'a file where the folder was')
  await readThrough(t, store, key, bytes)
  t.equal(store.cache!.bytes, 0)
  await store.close()
})

t.test('a failure is told to those who wait for it, and not remembered', async t => {
  const { afar, store, bytes, key } = await scene(t)
  afar.onRead = ({ start }) => {
    if (start === 0) throw new Error('cut')
  }
  const range = { start: 0, end: 10 }
  const reads = [store.read(key, range), store.read(key, range)]
  for (const read of reads) await t.rejects(read, { message: 'cut' })
  afar.onRead = () => {}
  t.equal(Buffer.compare(await store.read(key, range), bytes.subarray(0, 10)), 0)
  await store.close()
})

t.test('a reader that leaves takes nobody with it', async t => {
  const { afar, store, bytes, key } = await scene(t, { chunks: 1 })
  const { promise: open, resolve } = Promise.withResolvers<void>()
  afar.onRead = () => open
  const abort = new AbortController()
  const leaves = store.read(key, { start: 0, end: 10 }, abort.signal)
  const stays = store.read(key, { start: 5, end: 15 })
  abort.abort(new Error('gone'))
  await t.rejects(leaves, { message: 'gone' })
  resolve()
  t.equal(Buffer.compare(await stays, bytes.subarray(5, 15)), 0)
  await store.close()
})

/** Readers of the first bytes of many blobs, none of which is in the cache, while the store does not answer. */
async function crowd(t: Test, readers: number) {
  const { afar, store, bytes } = await scene(t, { chunks: 1 })
  t.teardown(() => store.close())
  const keys: string[] = []
  for (let i = 0; i < readers; i++) keys.push(await put(store, bytes))
  const { promise: opened, resolve: open } = Promise.withResolvers<void>()
  let under = 0
  let most = 0
  afar.onRead = async () => {
    most = Math.max(most, ++under)
    await opened
    under--
  }
  const abort = new AbortController()
  const range = { start: 0, end: 10 }
  const reads = keys.map((key, i) =>
    store.read(key, range, i < readers / 2 ? abort.signal : undefined),
  )
  const settled = Promise.allSettled(reads)
  while (afar.reads.length < MAX_RUNS) await setImmediate()
  return { afar, store, bytes, keys, range, abort, open, settled, most: () => most }
}

t.test('so many runs are fetched at once, whoever asks; the others come at their turn', async t => {
  const { bytes, open, settled, most } = await crowd(t, 3 * MAX_RUNS)
  open()
  for (const read of await settled) {
    if (read.status === 'rejected') throw read.reason
    t.equal(Buffer.compare(read.value, bytes.subarray(0, 10)), 0)
  }
  t.equal(most(), MAX_RUNS)
})

t.test('what nobody waits for any more at its turn is not fetched', async t => {
  const { afar, store, bytes, keys, range, abort, open, settled } = await crowd(t, 4 * MAX_RUNS)
  abort.abort(new Error('gone'))
  open()
  const results = await settled
  const rejected = results.filter(({ status }) => status === 'rejected')
  t.equal(rejected.length, 2 * MAX_RUNS)
  t.equal(
    afar.reads.length,
    3 * MAX_RUNS,
    'those that went when theirs was under way, and the rest',
  )
  const again = await store.read(keys[2 * MAX_RUNS - 1]!, range)
  t.equal(Buffer.compare(again, bytes.subarray(0, 10)), 0)
})

t.test('a deleted blob leaves nothing in the cache', async t => {
  const { store, bytes, key, files } = await scene(t)
  const other = await put(store, bytes)
  await readThrough(t, store, key, bytes)
  await readThrough(t, store, other, bytes)
  await store.delete([key])
  await store.close()
  t.equal(files().length, 3)
  t.ok(files().every(path => path.includes(other)))
})
