import t from 'tap'
import { FRAME_BYTES } from '../../src/codec/base/limits.ts'
import { BufferPool, type ChunkBuffer } from '../../src/workers/buffer-pool.ts'

t.test('buffers are used again, and counted while they are out', async t => {
  const pool = new BufferPool(4)
  const taken = [await pool.take(10), await pool.take(FRAME_BYTES), await pool.take(0)]
  t.strictSame(
    taken.map(({ length }) => length),
    [10, FRAME_BYTES, 0],
  )
  t.equal(new Set(taken.map(({ buffer }) => buffer)).size, 3)
  t.equal(pool.out, 3)
  for (const chunk of taken) pool.give(chunk)
  t.equal(pool.out, 0)
  for (let i = 0; i < 100; i++) pool.give(await pool.take(i))
  t.equal(pool.allocated, 3)
})

t.test('what is given back twice, or was never taken, is refused', async t => {
  const pool = new BufferPool(2)
  const chunk = await pool.take(1)
  pool.give(chunk)
  t.throws(() => pool.give(chunk), { message: /not out/ })
  t.throws(() => pool.give(new Uint8Array(new SharedArrayBuffer(FRAME_BYTES))))
  t.not((await pool.take(1)).buffer, (await pool.take(1)).buffer)
})

t.test('who finds all of them out waits, first come first served', async t => {
  const pool = new BufferPool(1)
  const first = await pool.take(1)
  const order: string[] = []
  const abort = new AbortController()
  const wait = (name: string, signal?: AbortSignal) =>
    pool.take(1, signal).then(
      chunk => {
        order.push(name)
        return chunk
      },
      () => void order.push(`${name} aborted`),
    )
  const waiting = [wait('a'), wait('b', abort.signal), wait('c')]
  abort.abort()
  pool.give(first)
  const a = await waiting[0]
  t.equal(pool.out, 1)
  pool.give(a as ChunkBuffer)
  pool.give((await waiting[2]) as ChunkBuffer)
  t.strictSame(order, ['b aborted', 'a', 'c'])
  t.equal(pool.out, 0)
  t.equal(pool.allocated, 1)
  await t.rejects(pool.take(1, AbortSignal.abort(new Error('gone'))), { message: 'gone' })
})

t.test('nobody waits for ever', async t => {
  const pool = new BufferPool(1, 0)
  const first = await pool.take(1)
  await t.rejects(pool.take(1), { name: 'BuffersOutError' })
  pool.give(first)
  t.equal(pool.out, 0)
  pool.give(await pool.take(1))
})

t.test('what many streams leave is told as spare', async t => {
  const pool = new BufferPool(20)
  const taken = await Promise.all(Array.from({ length: 20 }, () => pool.take(1)))
  t.equal(pool.spareBytes, 0)
  for (const chunk of taken) pool.give(chunk)
  t.equal(pool.spareBytes, 4 * FRAME_BYTES)
  pool.trim()
  t.equal(pool.spareBytes, 0)
})

t.test('what is not out can be dropped', async t => {
  const pool = new BufferPool(2)
  const [kept, given] = [await pool.take(1), await pool.take(1)]
  pool.give(given)
  pool.trim()
  t.equal(pool.out, 1)
  t.not((await pool.take(1)).buffer, given.buffer)
  pool.give(kept)
  t.equal(pool.allocated, 3)
})
