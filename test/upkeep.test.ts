import t, { type Test } from 'tap'
import { startUpkeep } from '../src/upkeep.ts'

/** Upkeep of a registry that only tells when its memory is dropped, in a process that says how much it has. */
function upkeep(t: Test, maxRssBytes: number, rss: number) {
  const real = process.memoryUsage.rss
  const looked = Promise.withResolvers<void>()
  process.memoryUsage.rss = () => {
    looked.resolve()
    return rss
  }
  const trimmed = Promise.withResolvers<void>()
  let trims = 0
  const registry = {
    sweep: () => Promise.reject(new Error('not now')),
    scrub: () => Promise.reject(new Error('not now')),
    trim: async () => {
      trims++
      trimmed.resolve()
    },
  }
  const told: string[] = []
  const log = {
    info: (_details: object, message: string) => void told.push(message),
    error: () => {},
    warn: (_details: object, message: string) => t.fail(message),
  }
  const options = { sweepEveryMs: 3_600_000, scrubBytesPerSecond: 0, maxRssBytes }
  const running = startUpkeep(registry, options, log)
  // Its timers keep no process alive.
  const alive = setInterval(() => {}, 60_000)
  t.teardown(async () => {
    clearInterval(alive)
    process.memoryUsage.rss = real
    await running[Symbol.asyncDispose]()
  })
  return { looked: looked.promise, trimmed: trimmed.promise, trims: () => trims, told }
}

t.test('near its limit, memory that is only kept to be used again is dropped', async t => {
  const { trimmed, trims, told } = upkeep(t, 1000, 950)
  await trimmed
  await new Promise(resolve => setImmediate(resolve))
  t.equal(trims(), 1)
  t.strictSame(told, ['memory was dropped'])
})

t.test('far from it nothing is', async t => {
  const { looked, trims } = upkeep(t, 1000, 800)
  await looked
  await new Promise(resolve => setImmediate(resolve))
  t.equal(trims(), 0)
})
