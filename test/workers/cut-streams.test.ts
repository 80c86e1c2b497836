import { execFileSync } from 'node:child_process'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Worker } from 'node:worker_threads'
import t from 'tap'
import { FRAME_BYTES } from '../../src/codec/base/limits.ts'
import type { Span } from '../../src/codec/base/ranges.ts'
import type { Segment } from '../../src/codec/plan/segments.ts'
import { BufferPool, type ChunkBuffer } from '../../src/workers/buffer-pool.ts'
import type { ByteSource } from '../../src/workers/byte-source.ts'
import { collectGarbage } from '../../src/workers/garbage.ts'
import { openPool, type Pool } from '../../src/workers/pool.ts'
import { engineOver, sourceOf } from '../support/engine.ts'

/** Bytes of the streams' segments: so that a few of them fill a chunk. */
const PIECE = 700_000
const MAX_AHEAD = 3

const valueAt = (at: number) => (at * 31) & 255

const read = async ({ start, end }: Span) => new Uint8Array(end - start).fill(7)

/** An engine over blobs that are fetched, unless `members` says otherwise, and the buffers of its streams. */
function engineOf(pool: Pool, members: Partial<ByteSource> = {}, bufferPool = new BufferPool()) {
  const source = sourceOf(read, members)
  return {
    bufferPool,
    engine: engineOver(pool, source, { buffers: bufferPool, prefetched: MAX_AHEAD }),
  }
}

/** Copies of neighbours in different blobs: they are not joined to one. */
const copies = (count: number): Segment[] =>
  Array.from({ length: count }, (_, i) => ({
    kind: 'copy',
    span: { blob: String(i), start: 0, end: PIECE },
  }))

/** Turns of the event loop until all tasks of a pool have ended. */
async function untilIdle(pool: Pool): Promise<void> {
  while (pool.busy > 0) await new Promise(resolve => setImmediate(resolve))
}

/** Resolves once everything that is ready has been told. */
const turn = () => new Promise(resolve => setImmediate(resolve))

/** A file that holds up who opens it until `release` does so too; then it cannot be read. */
async function blockingFile(folder: string) {
  const path = join(folder, 'pipe')
  execFileSync('mkfifo', [path])
  // For reading too: so it does not wait for somebody who reads.
  const release = () => open(path, 'r+')
  return { path, release }
}

t.test(
  'streams that are cut anywhere give back every buffer, and need no more of them',
  async t => {
    await using pool = await openPool({ workers: 2 })
    const { engine, bufferPool } = engineOf(pool)
    const cut = async (i: number) => {
      const abort = new AbortController()
      const stream = engine.stream(copies(12), abort.signal)
      // At the first chunk, between two, while the next is made, and while several are made ahead.
      for (let chunk = 0; chunk < i % 4; chunk++) await stream.next()
      const next = i % 3 === 0 ? stream.next().catch(() => {}) : null
      if (i % 5 === 0) await turn()
      if (i % 2 === 0) abort.abort(new Error('gone'))
      await next
      await stream.return(undefined)
    }
    for (let round = 0; round < 10; round++) {
      await Promise.all(Array.from({ length: 6 }, (_, i) => cut(round * 6 + i)))
    }
    await untilIdle(pool)
    await turn()
    t.equal(bufferPool.out, 0)
    // Those of the streams before may still be written to.
    const most = 6 + MAX_AHEAD + pool.size * 2
    t.ok(bufferPool.allocated <= most, `${bufferPool.allocated} buffers for 6 streams`)
  },
)

t.test('a buffer is not given back before the worker has let go of it', async t => {
  await using pool = await openPool({ workers: 1 })
  const { path, release } = await blockingFile(t.testdir())
  const { engine, bufferPool } = engineOf(pool, { locate: () => path })
  const abort = new AbortController()
  const stream = engine.stream(copies(1), abort.signal)
  const rejected = t.rejects(stream.next(), { message: 'gone' })
  while (pool.busy === 0) await turn()
  abort.abort(new Error('gone'))
  await turn()
  t.equal(bufferPool.out, 1, 'the worker still writes to it')
  await using _released = await release()
  await rejected
  t.equal(pool.busy, 0)
  t.equal(bufferPool.out, 0)
})

t.test('a worker that dies gives its buffer back when its thread has ended', async t => {
  const workers: Worker[] = []
  const keep = (worker: Worker) => workers.push(worker)
  process.on('worker', keep)
  t.teardown(() => process.off('worker', keep))
  await using pool = await openPool({ workers: 1 })
  const { path, release } = await blockingFile(t.testdir())
  const { engine, bufferPool } = engineOf(pool, { locate: () => path })
  const rejected = t.rejects(engine.stream(copies(1)).next(), { message: 'a worker died' })
  while (pool.busy === 0) await turn()
  const ended = workers[0]!.terminate()
  t.equal(bufferPool.out, 1)
  await using _released = await release()
  await rejected
  t.equal(workers[0]!.threadId, -1, 'its thread has ended')
  t.equal(bufferPool.out, 0)
  await ended
  const again = await engineOf(pool).engine.stream(copies(1)).next()
  t.equal(again.value?.[0], 7, 'another worker took its place')
})

t.test(
  'what fails and is tried again keeps its buffer, what fails for good gives it back',
  async t => {
    await using pool = await openPool({ workers: 1 })
    const { engine, bufferPool } = engineOf(pool)
    const sound = engine.source
    const short = { ...sound, locate: () => '/dev/null' }
    let left = 2
    const twice = { ...short, retry: async () => (left-- > 0 ? { ...sound, retry } : null) }
    const { retry } = twice
    const [chunk] = await Array.fromAsync(engine.over(twice).stream(copies(1)))
    t.equal(chunk?.length, PIECE)
    t.equal(bufferPool.allocated, 1)
    left = 1
    const never = { ...short, retry: async () => (left-- > 0 ? short : null) }
    await t.rejects(Array.fromAsync(engine.over(never).stream(copies(4))), { code: 'short' })
    const unread = { ...sound, fetch: () => Promise.reject(new Error('no')) }
    await t.rejects(Array.fromAsync(engine.over(unread).stream(copies(8))), { message: 'no' })
    await untilIdle(pool)
    await turn()
    t.equal(bufferPool.out, 0)
  },
)

t.test('a header longer than a chunk comes in chunks like everything else', async t => {
  await using pool = await openPool({ workers: 1 })
  const { engine, bufferPool } = engineOf(pool)
  const header = Uint8Array.from({ length: 2 * FRAME_BYTES + 5 }, (_, i) => valueAt(i))
  const segments: Segment[] = [{ kind: 'bytes', bytes: header }, ...copies(1)]
  const chunks: Buffer[] = []
  for await (const chunk of engine.stream(segments)) chunks.push(Buffer.from(chunk))
  t.ok(chunks.every(({ length }) => length <= FRAME_BYTES))
  const whole = Buffer.concat(chunks)
  t.ok(whole.subarray(0, header.length).equals(header))
  t.equal(whole.length, header.length + PIECE)
  t.equal(bufferPool.out, 0)
})

t.test('streams that have all buffers wait for each other, and all of them end', async t => {
  await using pool = await openPool({ workers: 2 })
  const { engine, bufferPool } = engineOf(pool, {}, new BufferPool(MAX_AHEAD + 1))
  const sizes = await Promise.all(
    Array.from({ length: 8 }, async () => {
      let size = 0
      for await (const chunk of engine.stream(copies(9))) size += chunk.length
      return size
    }),
  )
  t.strictSame(new Set(sizes), new Set([9 * PIECE]))
  t.equal(bufferPool.allocated, MAX_AHEAD + 1)
})

t.test('buffers that are dropped leave the memory of all threads, those in use do not', async t => {
  await using pool = await openPool({ workers: 2 })
  const bufferPool = new BufferPool()
  const buffers: WeakRef<SharedArrayBuffer>[] = []
  const take = async (size: number) => {
    const chunk = await bufferPool.take(size)
    buffers.push(new WeakRef(chunk.buffer))
    return chunk
  }
  const watched = Object.assign(Object.create(bufferPool), {
    take,
    give: (chunk: ChunkBuffer) => bufferPool.give(chunk),
  })
  const { engine } = engineOf(pool, {}, watched)
  const held = engine.stream(copies(1))
  const first = await held.next()
  await Array.fromAsync(engine.stream(copies(12)))
  bufferPool.trim()
  await pool.trim()
  await turn()
  collectGarbage()
  t.equal(bufferPool.out, 1)
  const alive = new Set(buffers.map(each => each.deref()).filter(buffer => buffer !== undefined))
  t.ok(alive.has(first.value!.buffer as SharedArrayBuffer))
  t.equal(alive.size, 1)
  await held.return(undefined)
})
