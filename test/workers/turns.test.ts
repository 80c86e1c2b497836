import t from 'tap'
import type { Steps } from '../../src/codec/index.ts'
import { inTurns } from '../../src/workers/turns.ts'

/** Steps that take `ms` milliseconds of this thread all together, and tell when they were left off for good. */
function* busy(ms: number, ended: () => void = () => {}): Steps<number> {
  const until = performance.now() + ms
  let steps = 0
  try {
    while (performance.now() < until) {
      steps++
      yield
    }
    return steps
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
  t.ok((await iterationsDuring(work)) >= 4)
  t.ok((await work) > 0)
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
