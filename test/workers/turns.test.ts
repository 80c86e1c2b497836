import t from 'tap'
import type { Steps } from '../../src/codec/base/steps.ts'
import { inOneTurn, inTurns } from '../../src/workers/turns.ts'

/** A clock that stands still but for {@link busy}: how late this machine is must not count. */
let now = 0
t.intercept(performance, 'now', { value: () => now })

/** Steps of a millisecond each, and tells when they were left off for good. */
function* busy(ms: number, ended: () => void = () => {}): Steps<number> {
  try {
    for (let step = 0; step < ms; step++) {
      now++
      yield
    }
    return ms
  } finally {
    ended()
  }
}

/** Iterations of the event loop until `work` settles. */
async function iterationsDuring(work: Promise<unknown>): Promise<number> {
  let iterations = 0
  let over = false
  const done = () => {
    over = true
  }
  work.then(done, done)
  while (!over) {
    await new Promise(resolve => setImmediate(resolve))
    iterations++
  }
  return iterations
}

t.test('a long computation leaves the event loop its turns', async t => {
  const work = inTurns(busy(120))
  // A turn is 8 ms, and the first is taken at once.
  t.equal(await iterationsDuring(work), 120 / 8)
  t.equal(await work, 120)
})

t.test('a short one is over within the call', async t => {
  let ended = false
  const work = inTurns(
    busy(0, () => {
      ended = true
    }),
  )
  t.ok(ended)
  t.equal(await work, 0)
})

t.test('several take turns with one another', async t => {
  const order: string[] = []
  const tell = (name: string) => () => void order.push(name)
  const long = inTurns(busy(200, tell('long')))
  const short = inTurns(busy(20, tell('short')))
  await Promise.all([long, short])
  t.strictSame(order, ['short', 'long'])
})

t.test('what the steps throw is rejected with', async t => {
  const failing = (function* (): Steps<never> {
    yield
    throw new Error('no')
  })()
  await t.rejects(inTurns(failing), { message: 'no' })
})

t.test('an aborted computation is left off', async t => {
  const leave = new AbortController()
  let ended = false
  const work = inTurns(
    busy(60_000, () => {
      ended = true
    }),
    leave.signal,
  )
  leave.abort(new Error('nobody waits'))
  await t.rejects(work, { message: 'nobody waits' })
  t.ok(ended)
})

t.test('work in turns of its own leaves each of them an iteration of the event loop', async t => {
  const done: number[] = []
  const all = Promise.all([0, 1, 2, 3].map(i => inOneTurn(() => done.push(i))))
  t.strictSame(done, [], 'never at once')
  const seen: number[] = []
  while (done.length < 4) {
    await new Promise(resolve => setImmediate(resolve))
    seen.push(done.length)
  }
  t.ok(
    seen.every((count, i) => count - (seen[i - 1] ?? 0) <= 1),
    `done after each iteration: ${seen}`,
  )
  await all
  t.strictSame(done, [0, 1, 2, 3])
  const failing = inOneTurn(() => {
    throw new Error('no')
  })
  await t.rejects(failing, { message: 'no' })
})
