import { createHash } from 'node:crypto'
import t from 'tap'
import type { Frame } from '../../src/codec/index.ts'
import { digest } from '../../src/workers/digest.ts'
import { openPool } from '../../src/workers/pool.ts'

const frame = (count: number): Frame => ({
  first: 0,
  count,
  load: 'BF16',
  steps: [],
  store: 'F32',
})

const job = (count: number) => ({
  frame: frame(count),
  parts: 0,
  slice: { start: 0, end: count * 4 },
})

const bf16 = (values: number[]) => {
  const bytes = new Uint8Array(values.length * 2)
  const bits = new Uint32Array(new Float32Array(values).buffer)
  new Uint16Array(bytes.buffer).set(bits.map(word => word >>> 16))
  return bytes
}

const floats = (bytes: Uint8Array) => [...new Float32Array(bytes.slice().buffer)]

t.test('frames are decoded in workers, whose buffers come and go by transfer', async t => {
  await using pool = await openPool({ workers: 2 })
  const input = bf16([1, -2, 0.5])
  const output = await pool.run({ kind: 'decode', jobs: [job(3)] }, [input])
  t.strictSame(floats(output), [1, -2, 0.5])
  t.equal(input.byteLength, 0, 'the input was handed over')
  t.equal(pool.busy, 0)
})

t.test('a buffer that is a view of a larger one is not taken from its owner', async t => {
  await using pool = await openPool({ workers: 1 })
  const whole = new Uint8Array([...bf16([9]), ...bf16([4, 5])])
  const output = await pool.run({ kind: 'decode', jobs: [job(2)] }, [whole.subarray(2)])
  t.strictSame(floats(output), [4, 5])
  t.equal(whole.byteLength, 6)
})

t.test('a task that throws rejects, and its worker goes on', async t => {
  await using pool = await openPool({ workers: 1 })
  const bad = pool.run({ kind: 'decode', jobs: [job(3)] }, [])
  await t.rejects(bad)
  t.strictSame(floats(await pool.run({ kind: 'decode', jobs: [job(1)] }, [bf16([7])])), [7])
})

t.test('an abort takes a waiting task out of the queue', async t => {
  await using pool = await openPool({ workers: 1 })
  const abort = new AbortController()
  const running = pool.run({ kind: 'decode', jobs: [job(1)] }, [bf16([1])])
  const waiting = pool.run({ kind: 'decode', jobs: [job(1)] }, [bf16([2])], abort.signal)
  abort.abort(new Error('gone'))
  await t.rejects(waiting, { message: 'gone' })
  t.strictSame(floats(await running), [1])
  t.equal(pool.busy, 0)
})

t.test('a hash lives in one worker, and many may be open at once', async t => {
  await using pool = await openPool({ workers: 2 })
  const chunks = Array.from({ length: 5 }, (_, i) => new Uint8Array(1000 + i).fill(i))
  const expected = createHash('sha256')
  for (const chunk of chunks) expected.update(chunk)
  const hex = expected.digest('hex')
  const stream = async function* () {
    for (const chunk of chunks) yield chunk.slice()
  }
  const digests = await Promise.all([1, 2, 3].map(() => digest(pool, stream())))
  t.strictSame(digests, [hex, hex, hex])
  t.equal(await digest(pool, (async function* () {})()), createHash('sha256').digest('hex'))
})

t.test('a stream that fails ends its digest with the same error', async t => {
  await using pool = await openPool({ workers: 1 })
  const stream = async function* () {
    yield new Uint8Array(10)
    throw new Error('cut')
  }
  await t.rejects(digest(pool, stream()), { message: 'cut' })
})

t.test('a closed pool rejects what waits and what comes', async t => {
  const pool = await openPool({ workers: 1 })
  await pool.close()
  await t.rejects(pool.run({ kind: 'decode', jobs: [] }, []), { message: /closed/ })
})
