import t from 'tap'
import { mapOrdered } from '../../src/workers/map-ordered.ts'

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
