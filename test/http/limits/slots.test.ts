import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import t from 'tap'
import { type Occupant, SlotQueue, type SlotRules } from '../../../src/http/limits/slots.ts'

const HOUR_MS = 3_600_000

const RULES: SlotRules = {
  what: 'uploads',
  most: 2,
  slow: [{ bytesPerSecond: 1000, windowMs: 100 }],
  waitMs: HOUR_MS,
}

/** A request: its answer closes when it is ended, as that of a real one does. */
class Client extends EventEmitter implements Occupant {
  readonly owner: string
  destroyed = false
  ended: string | null = null
  awaited = true
  bytes: number
  readonly #pace: number

  constructor(owner = 'somebody', { bytes = 0, pace = 0 } = {}) {
    super()
    this.owner = owner
    this.bytes = bytes
    this.#pace = pace
  }

  /** Whenever it is asked, it has moved `pace` bytes more. */
  moved(): number {
    this.bytes += this.#pace
    return this.bytes
  }

  isAwaited(): boolean {
    return this.awaited
  }

  end(why: string): void {
    this.ended = why
    this.close()
  }

  close(): void {
    this.destroyed = true
    this.emit('close')
  }

  enter(slots: SlotQueue): Promise<void> {
    return slots.enter(this as unknown as ServerResponse, this)
  }
}

const fast = (owner?: string) => new Client(owner, { pace: 1e6 })

t.test('the slow one gives way, whoever came first, and no other does', async t => {
  for (const slowFirst of [true, false]) {
    const slots = new SlotQueue(RULES)
    const [slow, quick] = [new Client(), fast()]
    for (const client of slowFirst ? [slow, quick] : [quick, slow]) await client.enter(slots)
    await new Client().enter(slots)
    t.equal(slow.ended, 'slow')
    t.equal(quick.ended, null)
  }
})

t.test('a client that goes with the one whose place it was given is not let in', async t => {
  const slots = new SlotQueue({ ...RULES, most: 1 })
  const [first, second, third] = [fast(), fast(), fast()]
  await first.enter(slots)
  const entering = second.enter(slots)
  first.close()
  second.close()
  await t.rejects(entering, { code: 'client-closed' })
  await third.enter(slots)
})

t.test('of slow ones, the one that has moved least gives way', async t => {
  const slots = new SlotQueue({ ...RULES, slow: [{ bytesPerSecond: 1000, windowMs: 0 }] })
  const [much, little] = [new Client('a', { bytes: 1e9 }), new Client('b', { bytes: 10 })]
  for (const client of [much, little]) {
    client.awaited = false
    await client.enter(slots)
  }
  const entered = new Client().enter(slots)
  // From here on, both have been slow for equally long.
  for (const client of [much, little]) client.awaited = true
  await entered
  t.strictSame([much.ended, little.ended], [null, 'slow'])
})

t.test('what the registry itself takes time for costs nobody a place', async t => {
  const slots = new SlotQueue({
    ...RULES,
    slow: [{ bytesPerSecond: 1000, windowMs: 0 }],
    waitMs: 1000,
  })
  const proving = [new Client(), new Client()]
  for (const client of proving) {
    client.awaited = false
    await client.enter(slots)
  }
  await t.rejects(new Client().enter(slots), { code: 'overloaded', message: /2 uploads/ })
  t.strictSame(
    proving.map(({ ended }) => ended),
    [null, null],
  )
  // As when the body goes on: then it is the client's time again.
  proving[1]!.awaited = true
  await new Client().enter(slots)
  t.equal(proving[1]!.ended, 'slow')
})

t.test('a wall of slow ones goes as fast as others come', async t => {
  const slots = new SlotQueue({ ...RULES, most: 16 })
  const wall = Array.from({ length: 16 }, () => new Client('wall'))
  await Promise.all(wall.map(client => client.enter(slots)))
  const honest = Array.from({ length: 16 }, () => fast())
  await Promise.all(honest.map(client => client.enter(slots)))
  t.ok(wall.every(({ ended }) => ended === 'slow'))
  t.ok(honest.every(({ ended }) => ended === null))
})

t.test(
  'an owner with more than its share gives way to one that waits, and keeps its share',
  async t => {
    const slots = new SlotQueue({ ...RULES, most: 8, waitMs: 600 })
    const many = Array.from({ length: 8 }, () => fast('many'))
    for (const client of many) await client.enter(slots)
    const others = Array.from({ length: 4 }, () => fast('other'))
    for (const client of others) await client.enter(slots)
    const ended = many.map(client => client.ended)
    t.equal(ended.filter(why => why === 'share').length, 4)
    await t.rejects(fast('other').enter(slots), { code: 'overloaded' })
    await t.rejects(fast('many').enter(slots), { code: 'overloaded' })
    await fast('third').enter(slots)
    t.equal([...many, ...others].filter(client => client.ended === 'share').length, 5)
  },
)

t.test('the place that becomes free is for who holds fewest', async t => {
  const slots = new SlotQueue({ ...RULES, most: 2 })
  const held = [fast('many'), fast('many')]
  for (const client of held) await client.enter(slots)
  const order: string[] = []
  const [more, other] = [fast('many'), fast('other')]
  const entered = [more, other].map(client =>
    client.enter(slots).then(() => order.push(client.owner)),
  )
  held[0]!.close()
  await entered[1]
  t.strictSame(order, ['other'])
  held[1]!.close()
  await Promise.all(entered)
  t.strictSame(order, ['other', 'many'])
})

t.test('one client with 200 connections leaves room in the queue', async t => {
  const slots = new SlotQueue({ ...RULES, most: 4 })
  const crowd = Array.from({ length: 200 }, () => fast('crowd'))
  const entered = crowd.map(client => client.enter(slots))
  const refused = (await Promise.allSettled(entered.slice(8))).map(({ status }) => status)
  t.strictSame(new Set(refused), new Set(['rejected']))
  const other = fast('other')
  const place = other.enter(slots)
  crowd[0]!.close()
  await place
  for (const client of crowd.slice(4, 8)) client.close()
  for (const waiting of entered.slice(4, 8)) await t.rejects(waiting, { code: 'client-closed' })
})

t.test('clients that are gone hold nothing', async t => {
  const slots = new SlotQueue({ ...RULES, most: 1 })
  const gone = fast()
  gone.close()
  await t.rejects(gone.enter(slots), { code: 'client-closed' })
  const first = fast()
  await first.enter(slots)
  const waiting = fast()
  const waited = waiting.enter(slots)
  waiting.close()
  await t.rejects(waited, { code: 'client-closed' })
  first.close()
  await fast().enter(slots)
})
