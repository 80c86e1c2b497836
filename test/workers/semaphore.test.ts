import t from 'tap'
import { Semaphore } from '../../src/workers/semaphore.ts'

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

t.test('no more hold a slot at once than there are', async t => {
  const slots = new Semaphore(3)
  let holding = 0
  let most = 0
  const work = async () => {
    using _slot = await slots.take()
    most = Math.max(most, ++holding)
    await new Promise(resolve => setImmediate(resolve))
    holding--
  }
  await Promise.all(Array.from({ length: 20 }, work))
  t.strictSame([most, holding], [3, 0])
})
