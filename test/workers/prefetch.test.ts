import t, { type Test } from 'tap'
import { PrefetchBudget, Prefetcher, PrefetchItem } from '../../src/workers/prefetch.ts'

/** A stream of `count` items that counts what is made of it, and what is given back. */
function stream(ahead: PrefetchBudget, count = 8) {
  const made: number[] = []
  const discarded: number[] = []
  const items = Array.from(
    { length: count },
    (_, i) =>
      new PrefetchItem(
        async () => {
          made.push(i)
          return i
        },
        i => discarded.push(i),
      ),
  )
  return { window: new Prefetcher(items, ahead), made, discarded }
}

/** What was made has been made. */
const turn = () => new Promise(resolve => setImmediate(resolve))

t.test(
  'items come in order, each made once, more and more of them before they are asked for',
  async t => {
    const { window, made, discarded } = stream(new PrefetchBudget(16))
    for (const [i, ahead] of [1, 2, 3, 3].entries()) {
      t.equal(await window.next(), i)
      t.equal(made.length - 1 - i, ahead)
    }
    const rest: (number | null)[] = []
    for (let i = await window.next(); i !== null; i = await window.next()) rest.push(i)
    t.strictSame(rest, [4, 5, 6, 7])
    t.strictSame(made, [0, 1, 2, 3, 4, 5, 6, 7])
    t.strictSame(discarded, [])
    t.equal(await window.next(), null)
  },
)

/** Asks a stream for its first items, until it has as much ahead as it may. */
async function start(t: Test, window: Prefetcher<number>): Promise<void> {
  for (let i = 0; i < 3; i++) t.equal(await window.next(), i)
  await turn()
}

t.test('streams together have so much ahead, and none waits for a place', async t => {
  const ahead = new PrefetchBudget(4, Number.POSITIVE_INFINITY)
  const streams = Array.from({ length: 3 }, () => stream(ahead))
  for (const { window } of streams) await start(t, window)
  t.strictSame(
    streams.map(({ made }) => made.length - 3),
    [3, 1, 0],
  )
  for (const { window } of streams) t.equal(await window.next(), 3)
})

t.test('a stream that is closed gives its places and what was made back', async t => {
  const ahead = new PrefetchBudget(3, Number.POSITIVE_INFINITY)
  const [closed, other] = [stream(ahead), stream(ahead)]
  await start(t, closed.window)
  closed.window.close()
  await turn()
  t.strictSame(closed.discarded, [3, 4, 5])
  await start(t, other.window)
  t.strictSame(other.made, [0, 1, 2, 3, 4, 5])
})

t.test('a stream that stands still gives up what was made, and goes on when it moves', async t => {
  const ahead = new PrefetchBudget(3, 0)
  const [still, moving] = [stream(ahead), stream(ahead)]
  await start(t, still.window)
  await start(t, moving.window)
  t.strictSame(moving.made, [0, 1, 2, 3, 4, 5])
  t.strictSame(still.discarded, [3, 4, 5])
  const rest: (number | null)[] = []
  for (let i = await still.window.next(); i !== null; i = await still.window.next()) rest.push(i)
  t.strictSame(rest, [3, 4, 5, 6, 7], 'nothing is lost')
})

t.test('an item that cannot be made fails when it is asked for, not before', async t => {
  const failing = () => Promise.reject(new Error('no'))
  const discard = () => t.fail('nothing was made')
  const items = [
    new PrefetchItem(async () => 0, discard),
    new PrefetchItem<number>(failing, discard),
  ]
  const window = new Prefetcher(items, new PrefetchBudget(4))
  t.equal(await window.next(), 0)
  await turn()
  await t.rejects(window.next(), { message: 'no' })
  window.close()
})
