import t from 'tap'
import {
  type Layer,
  OpenBudget,
  openBytesWithin,
  reachOf,
} from '../../../src/registry/models/open-budget.ts'

/** A budget of 6400 bytes: up to 100 never wait. `idle` are what can be given up, in bytes. */
function budgetOf(idle: number[] = []) {
  const budget: OpenBudget = new OpenBudget(6400, () => {
    const bytes = idle.shift()
    if (bytes !== undefined) budget.leave(bytes, null)
    return bytes !== undefined
  })
  for (const bytes of idle) budget.enter(bytes, null)
  return budget
}

const BASE: Layer = { bytes: 1000, parent: null }
const MIDDLE: Layer = { bytes: 200, parent: BASE }

t.test('a layer counts once, as long as anything is built on it', async t => {
  const budget = budgetOf()
  budget.enter(10, { bytes: 1, parent: MIDDLE })
  const top = { bytes: 2, parent: MIDDLE }
  budget.enter(10, top)
  budget.enter(10, BASE)
  t.equal(budget.used, 1000 + 200 + 1 + 2 + 30)
  budget.leave(10, BASE)
  t.equal(budget.used, 1000 + 200 + 1 + 2 + 20, 'what is built on it needs it still')
  budget.leave(10, top)
  t.equal(budget.used, 1000 + 200 + 1 + 10)
  budget.enter(10, top)
  budget.leave(10, top)
  t.equal(budget.used, 1000 + 200 + 1 + 10)
  t.equal(reachOf(top), 1202)
})

t.test('layers of which nothing is left are given back to the bottom', async t => {
  const budget = budgetOf()
  const [left, right] = [
    { bytes: 5, parent: MIDDLE },
    { bytes: 7, parent: MIDDLE },
  ]
  for (const layer of [left, right]) budget.enter(1, layer)
  for (const layer of [right, left]) budget.leave(1, layer)
  t.equal(budget.used, 0)
})

t.test('what nobody uses makes room, the oldest first and no more than is needed', async t => {
  const idle = [3000, 2000, 1000]
  const budget = budgetOf(idle)
  t.equal(budget.used, 6000)
  using _first = await budget.reserve(3000)
  t.strictSame(idle, [2000, 1000])
  t.equal(budget.used, 6000)
})

t.test('what is large waits for its turn, what is small does not', async t => {
  const budget = budgetOf()
  const order: string[] = []
  const held = await budget.reserve(6000)
  const take = async (name: string, bytes: number) => {
    const room = await budget.reserve(bytes)
    order.push(name)
    return room
  }
  const large = take('large', 5000)
  const next = take('next', 300)
  using _small = await take('small', 90)
  t.strictSame(order, ['small'])
  held[Symbol.dispose]()
  ;(await large)[Symbol.dispose]()
  ;(await next)[Symbol.dispose]()
  t.strictSame(order, ['small', 'large', 'next'])
  t.equal(budget.used, 90)
})

t.test('who leaves gives his place in the queue up', async t => {
  const budget = budgetOf()
  const held = await budget.reserve(6000)
  const leave = new AbortController()
  const left = budget.reserve(5000, 0, leave.signal)
  const stays = budget.reserve(3000)
  leave.abort(new Error('gone'))
  await t.rejects(left, { message: 'gone' })
  held[Symbol.dispose]()
  ;(await stays)[Symbol.dispose]()
  t.equal(budget.used, 0)
})

t.test('who leaves the head of the queue lets in those behind that fit', async t => {
  const budget = budgetOf()
  using _held = await budget.reserve(3000)
  const leave = new AbortController()
  const left = budget.reserve(5000, 0, leave.signal)
  const fits = budget.reserve(3000)
  leave.abort(new Error('gone'))
  await t.rejects(left, { message: 'gone' })
  t.equal(budget.used, 6000)
  ;(await fits)[Symbol.dispose]()
})

t.test('what is granted to one who is just leaving is given back', async t => {
  for (let turns = 0; turns < 8; turns++) {
    const budget = budgetOf()
    const held = await budget.reserve(6000)
    const leave = new AbortController()
    const leaving = budget.reserve(5000, 0, leave.signal).catch(() => null)
    leave.abort()
    for (let i = 0; i < turns; i++) await null
    held[Symbol.dispose]()
    ;(await leaving)?.[Symbol.dispose]()
    t.equal(budget.used, 0, `room came ${turns} turns later`)
  }
})

t.test('more than there ever is is refused at once, with both numbers', async t => {
  const budget = budgetOf()
  const refused = { code: 'lineage-too-large', details: { expected: 6400, came: 6401 } }
  await t.rejects(budget.reserve(6401), refused)
  await t.rejects(budget.reserve(400, 6001), refused, 'with what the caller has')
  t.throws(() => budget.check(6401), refused)
  t.equal(budget.used, 0)
})

t.test('a process that may take little memory has as little for models', async t => {
  t.ok(openBytesWithin(500e6) <= 200e6)
  t.ok(openBytesWithin(0) >= openBytesWithin(500e6))
  t.ok(openBytesWithin(2 ** 50) <= 1024 ** 3)
})
