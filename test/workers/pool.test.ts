import { createHash } from 'node:crypto'
import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { FloatFrame } from '../../src/codec/frames/float-frame.ts'
import { openPool } from '../../src/workers/pool.ts'
import { engineOver, sourceOf } from '../support/engine.ts'
import { openFiles } from '../support/servers/server-process.ts'

const frame = (count: number): FloatFrame => ({
  first: 0,
  count,
  load: 'BF16',
  steps: [],
  store: 'F32',
})

/** All of the first buffer of a task. */
const all = (end: number) => ({ buffer: 0, from: 0, start: 0, end, check: null })

const room = (bytes: number) => new Uint8Array(new SharedArrayBuffer(bytes))

/** A task that widens `count` bf16 values, the first of its buffers. */
const widening = (count: number, into = room(count * 4)) =>
  ({
    kind: 'decode',
    pieces: [
      {
        kind: 'frame',
        frame: frame(count),
        source: [{ kind: 'copy', part: all(count * 2), size: count * 2 }],
        parts: [],
        slice: { start: 0, end: count * 4 },
      },
    ],
    into,
  }) as const

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
  const output = room(12)
  await pool.run(widening(3, output), [input])
  t.strictSame(floats(output), [1, -2, 0.5])
  t.equal(input.byteLength, 0, 'the input was handed over')
  t.equal(pool.busy, 0)
})

t.test('a buffer that is a view of a larger one is not taken from its owner', async t => {
  await using pool = await openPool({ workers: 1 })
  const whole = new Uint8Array([...bf16([9]), ...bf16([4, 5])])
  const output = room(8)
  await pool.run(widening(2, output), [whole.subarray(2)])
  t.strictSame(floats(output), [4, 5])
  t.equal(whole.byteLength, 6)
})

t.test('a task that throws rejects, and its worker goes on', async t => {
  await using pool = await openPool({ workers: 1 })
  const bad = pool.run(widening(3), [])
  await t.rejects(bad)
  const output = room(4)
  await pool.run(widening(1, output), [bf16([7])])
  t.strictSame(floats(output), [7])
})

t.test('an abort takes a waiting task out of the queue', async t => {
  await using pool = await openPool({ workers: 1 })
  const abort = new AbortController()
  const output = room(4)
  const running = pool.run(widening(1, output), [bf16([1])])
  const waiting = pool.run(widening(1), [bf16([2])], abort.signal)
  abort.abort(new Error('gone'))
  await t.rejects(waiting, { message: 'gone' })
  await running
  t.strictSame(floats(output), [1])
})

t.test('a hash lives in one worker, and many may be open at once', async t => {
  await using pool = await openPool({ workers: 2 })
  const blob = Buffer.from(Array.from({ length: 5000 }, (_, i) => i % 251))
  const read = async ({ start, end }: { start: number; end: number }) =>
    new Uint8Array(blob.subarray(start, end))
  const engine = engineOver(pool, sourceOf(read))
  const segments = Array.from({ length: 5 }, (_, i) => ({
    kind: 'copy' as const,
    span: { blob: 'b', start: i * 1000, end: (i + 1) * 1000 },
  }))
  const hex = createHash('sha256').update(blob).digest('hex')
  const digests = await Promise.all([1, 2, 3].map(() => engine.digest(segments)))
  t.strictSame(digests, [hex, hex, hex])
  t.equal(await engine.digest([]), createHash('sha256').digest('hex'))
  const cut = engine.over({ ...engine.source, fetch: () => Promise.reject(new Error('cut')) })
  await t.rejects(cut.digest(segments), { message: 'cut' })
})

t.test('a worker reads a local file itself, and says which one failed it', async t => {
  await using pool = await openPool({ workers: 1 })
  const folder = t.testdir({ file: Buffer.from(bf16([1, 2, 3])) })
  const read = async (path: string, end: number) => {
    const count = (end - 2) / 2
    const source = [
      { kind: 'copy' as const, part: { path, start: 2, end, check: null }, size: count * 2 },
    ]
    const slice = { start: 0, end: count * 4 }
    const pieces = [{ kind: 'frame' as const, frame: frame(count), source, parts: [], slice }]
    const into = room(count * 4)
    await pool.run({ kind: 'decode', pieces, into }, [])
    return into
  }
  t.strictSame(floats(await read(`${folder}/file`, 6)), [2, 3])
  await t.rejects(read(`${folder}/file`, 8), { name: 'FileError', code: 'short' })
  await t.rejects(read(`${folder}/none`, 6), { name: 'FileError', code: 'ENOENT' })
})

t.test(
  'a file is closed when its task is done: what is deleted then gives back its space',
  async t => {
    await using pool = await openPool({ workers: 2 })
    const folder = t.testdir()
    const parts = Array.from({ length: 100 }, (_, i) => {
      const path = join(folder, String(i))
      writeFileSync(path, bf16([i]))
      return { path, start: 0, end: 2, check: null }
    })
    const output = room(200)
    const pieces = parts.map(part => ({ kind: 'copy', part, size: 2 }) as const)
    await pool.run({ kind: 'decode', pieces, into: output }, [])
    t.ok(Buffer.from(output.slice()).equals(Buffer.from(bf16(parts.map((_, i) => i)))))
    const missing = {
      kind: 'copy',
      part: { ...parts[0]!, path: join(folder, 'x') },
      size: 2,
    } as const
    await t.rejects(pool.run({ kind: 'decode', pieces: [pieces[0]!, missing], into: output }, []))
    const held = openFiles().filter(path => path.startsWith(folder))
    t.strictSame(held, [])
  },
)

t.test('a task that nobody waits for any more ends before its end', async t => {
  await using pool = await openPool({ workers: 1 })
  const size = 2 ** 20
  const folder = t.testdir({ from: Buffer.alloc(size), to: '' })
  const [from, to] = [join(folder, 'from'), join(folder, 'to')]
  const part = { path: from, start: 0, end: size, check: null }
  const pieces = Array.from({ length: 4000 }, () => ({ kind: 'copy', part, size }) as const)
  const abort = new AbortController()
  const task = { kind: 'write', pieces, path: to, position: 0 } as const
  const written = pool.run(task, [], abort.signal)
  while (statSync(to).size === 0) await new Promise(resolve => setImmediate(resolve))
  abort.abort(new Error('gone'))
  await t.rejects(written, { message: 'gone' })
  t.ok(statSync(to).size < size * pieces.length, 'it has not written everything')
  const next = { ...task, pieces: pieces.slice(0, 1) }
  t.equal(await pool.run(next, []), null, 'the next task is not cancelled')
})

t.test('a hash that nobody waits for any more ends, and its session with it', async t => {
  await using pool = await openPool({ workers: 1 })
  const size = 2 ** 20
  const path = join(t.testdir({ file: Buffer.alloc(size) }), 'file')
  const part = { path, start: 0, end: size, check: null }
  const abort = new AbortController()
  const session = pool.openHash(abort.signal)
  const pieces = Array.from({ length: 50_000 }, () => ({ kind: 'copy', part, size }) as const)
  // 50 GB: it would not end in the time that a test has.
  const hashed = session.update(pieces, [])
  abort.abort(new Error('gone'))
  await t.rejects(hashed, { message: 'gone' })
  session.abandon()
  const other = pool.openHash()
  await other.update(pieces.slice(0, 1), [])
  t.equal(await other.digest(), createHash('sha256').update(Buffer.alloc(size)).digest('hex'))
})

t.test('a closed pool rejects what waits and what comes', async t => {
  const pool = await openPool({ workers: 1 })
  await pool.close()
  await t.rejects(pool.run({ kind: 'digests', tensors: [] }, []), { message: /closed/ })
})
