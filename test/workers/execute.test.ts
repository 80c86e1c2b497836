import t from 'tap'
import type { Segment } from '../../src/codec/plan/segments.ts'
import { mapOrdered } from '../../src/workers/map-ordered.ts'
import type { Pool } from '../../src/workers/pool.ts'
import { Semaphore } from '../../src/workers/semaphore.ts'
import type { Piece } from '../../src/workers/tasks.ts'
import { engineOver, sourceOf } from '../support/engine.ts'

t.test('mapOrdered keeps order and never has more than its width under way', async t => {
  let under = 0
  let most = 0
  const gates: (() => void)[] = []
  const work = async (i: number) => {
    most = Math.max(most, ++under)
    await new Promise<void>(resolve => gates.push(resolve))
    under--
    return i
  }
  const results: number[] = []
  const all = (async () => {
    for await (const i of mapOrdered([0, 1, 2, 3, 4, 5, 6], 3, work)) results.push(i)
  })()
  // The later ones finish first: order must not depend on it.
  while (results.length < 7) {
    gates.pop()?.()
    await new Promise<void>(resolve => setImmediate(resolve))
  }
  await all
  t.strictSame(results, [0, 1, 2, 3, 4, 5, 6])
  t.equal(most, 3)
})

t.test('a consumer that stops pulling stops the work', async t => {
  let begun = 0
  const stream = mapOrdered(Array(100).keys(), 4, async i => {
    begun++
    return i
  })
  await stream.next()
  await stream.next()
  t.ok(begun <= 6, `${begun} begun after two results`)
  await stream.return(undefined)
  t.ok(begun <= 6)
})

t.test('a failure comes at its turn, and what is under way does not reject unhandled', async t => {
  const stream = mapOrdered([0, 1, 2, 3], 4, async i => {
    if (i === 1) throw new Error('one')
    if (i === 2) throw new Error('two')
    return i
  })
  t.strictSame(await stream.next(), { done: false, value: 0 })
  await t.rejects(stream.next(), { message: 'one' })
})

t.test('slots are granted in order, and an aborted wait gives its place up', async t => {
  const slots = new Semaphore(1)
  const first = await slots.take()
  const abort = new AbortController()
  const order: string[] = []
  const second = slots.take(abort.signal).then(
    () => order.push('second'),
    () => order.push('aborted'),
  )
  const third = slots.take().then(slot => {
    order.push('third')
    return slot
  })
  abort.abort()
  await second
  first[Symbol.dispose]()
  const slot = await third
  t.strictSame(order, ['aborted', 'third'])
  slot[Symbol.dispose]()
  const again = await slots.take()
  again[Symbol.dispose]()
  await t.rejects(slots.take(AbortSignal.abort(new Error('gone'))), { message: 'gone' })
})

t.test('segments of a few bytes, or of none, make tasks of bounded length', async t => {
  const kinds: Record<string, (i: number) => Segment> = {
    bytes: i => ({ kind: 'bytes', bytes: Uint8Array.of(i) }),
    'copies apart': i => ({ kind: 'copy', span: { blob: 'b', start: i * 8, end: i * 8 + 4 } }),
    'copies joined': i => ({ kind: 'copy', span: { blob: 'b', start: i * 4, end: i * 4 + 4 } }),
    'both in turn': i =>
      i % 2 === 0
        ? { kind: 'bytes', bytes: Uint8Array.of(i, i) }
        : { kind: 'copy', span: { blob: 'b', start: i * 8, end: i * 8 + 2 } },
  }
  for (const [kind, segment] of Object.entries(kinds)) {
    let drawn = 0
    let most = 0
    const tasks: (readonly Piece[])[] = []
    const session = {
      update: async (pieces: readonly Piece[]) => {
        most = Math.max(most, drawn)
        drawn = 0
        tasks.push(pieces)
      },
      digest: async () => 'digest',
      abandon: () => {},
    }
    const pool = { size: 1, openHash: () => session } as unknown as Pool
    const read = () => Promise.reject(new Error('a worker reads'))
    const engine = engineOver(pool, sourceOf(read, { locate: () => 'path' }))
    const segments = (function* () {
      for (let i = 0; i < 20_000; i++, drawn++) yield segment(i)
    })()
    t.equal(await engine.digest(segments), 'digest')
    t.ok(most <= 1024, `${kind}: ${most} segments between two tasks`)
    const buffers = tasks.map(
      pieces => new Set(pieces.map(piece => 'bytes' in piece && piece.bytes.buffer)).size,
    )
    t.ok(Math.max(...buffers) <= 2, `${kind}: bytes of a task lie in one buffer`)
  }
})
